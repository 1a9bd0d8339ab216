# Runs a program on a node, with the node's own directories; what it starts sees them too.
name=$1 root=$2 run=$3 lab=$4 own=$5
shift 5

hostname "$name"
# Of /run it sees its own, and the lab: control socket, pins and locks are there.
mkdir -p "$run/${lab#/run/}"
mount --rbind "$lab" "$run/${lab#/run/}"
# Of /dev it has the devices alone: shared memory, and what a driver adds, are the node's.
mkdir -p "$root/dev"
mount -t tmpfs -o mode=755 dev "$root/dev"
find /dev -mindepth 1 -maxdepth 1 ! -type d -exec cp -a {} "$root/dev" ';'
mkdir -m 1777 "$root/dev/shm"
for dir in $own /dev; do
	mount --rbind "$root$dir" "$dir"
done
mount --rbind "$run" /run
exec "$@"
