#!/bin/bash
# The campaign's service: service.sh start|stop|check MARK. As long as it runs it writes words into /srv, each
# with the number of its start, and 2 MB anew whenever it starts or stops. What it finds and leaves there is
# noted in a directory that both nodes see.
lab=LAB judge=LAB/judge mark=$2
state=$lab/$XDPHA_NODE/state/mirrors.json

# data: START WORD of the last word, and the number of the 2 MB: twice that of the start, and one more of a stop.
data() {
	local last=0 words=0 bulk=0
	[[ ! -e /srv/words ]] || read -r last words < <(tail -n 1 /srv/words)
	[[ ! -e /srv/bulk ]] || read -r bulk </srv/bulk
	echo "$last $words $bulk"
}

running() { [[ -e $mark ]] && kill -0 "$(<"$mark")" 2>/dev/null; }

bulk() { { echo "$1"; head -c 2000000 /dev/urandom; } >/srv/.bulk && mv /srv/.bulk /srv/bulk; }

write() {
	local n=$1 word=0 nothing
	bulk $((2 * n))
	exec {nothing}<> <(:)
	while :; do
		read -r -t 0.03 -u "$nothing"
		[[ -e $judge/still ]] || echo "$n $((++word))" >>/srv/words
	done
}

case $1 in
start)
	running && exit
	exec 9>>"$judge/lock"
	flock 9
	n=$(($(grep -c ^start "$judge/notes") + 1))
	echo "start $n $XDPHA_NODE $XDPHA_GENERATION $(data) $(tr -d ' \n' <"$state")" >>"$judge/notes"
	echo "$n 0" >/srv/.words && mv /srv/.words /srv/words
	exec 9>&-
	setsid "$0" write "$n" </dev/null >/dev/null 2>&1 &
	echo $! >"$mark"
	;;
write) write "$2" ;;
stop)
	exec 8>>"$judge/stop-$XDPHA_NODE" # a daemon that is cut off and its guard may both stop it
	flock 8
	[[ -e $mark ]] || exit 0
	pid=$(<"$mark")
	while kill -KILL "$pid" 2>/dev/null; do sleep 0.01; done
	read -r n _ < <(data)
	bulk $((2 * n + 1))
	echo "stop $XDPHA_NODE $(data)" >>"$judge/notes"
	rm "$mark"
	;;
check) running ;;
esac
