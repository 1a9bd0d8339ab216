#!/bin/bash
# Stands before the program of a service that must run once: it is started under a lock that both
# nodes see, and which is held until it has been stopped, or all that runs on the node has ended.
# A start that finds the lock held by the other node is written down.
service=${0##*/}
lock=$ARTICLE_LOCKS/$service
program=/etc/xdpha/once/$service
pidfile=/run/once-$service.pid

holder() { cat "$pidfile" 2>/dev/null || echo none; }

take() {
	pgrep -r D,R,S,T -s "$(holder)" >/dev/null 2>&1 && return
	exec 9>>"$lock"
	if flock -n 9; then
		echo "$XDPHA_NODE" >"$lock.by"
	else
		echo "$service $XDPHA_NODE $(cat "$lock.by")" >>"$ARTICLE_LOCKS/violations"
	fi
	# It has the lock already, or waits until the other node lets go of it.
	setsid bash -c 'flock 9 && echo "$XDPHA_NODE" >"$0.by" && exec sleep infinity' "$lock" </dev/null >/dev/null 2>&1 &
	echo $! >"$pidfile"
	exec 9>&-
	# A stop or a second start finds the holder by its session, which it has in a moment.
	until pgrep -s $! >/dev/null || ! kill -0 $! 2>/dev/null; do sleep 0.01; done
}

case "${1-}" in
start)
	take
	exec "$program" start
	;;
stop)
	"$program" stop || exit
	while pkill -KILL -r D,R,S,T -s "$(holder)"; do sleep 0.01; done 2>/dev/null
	rm -f "$pidfile"
	;;
*) exec "$program" "$@" ;;
esac
