# Runs a node's daemon with the node's own directories; what it starts sees them too.
name=$1 root=$2 run=$3 lab=$4
export ARTICLE_LOCKS=$5
own=$6
shift 6

hostname "$name"
# Of /run it sees its own, and the lab: control socket, pins and locks are there.
mkdir -p "$run/${lab#/run/}"
mount --rbind "$lab" "$run/${lab#/run/}"
for dir in $own; do
	mount --bind "$root$dir" "$dir"
done
mount --rbind "$run" /run
exec "$@"
