#!/bin/busybox sh
# The first process of a test guest: mounts, modules, a shell on the console, and the command agent.
# The agent reads lines "ID SECONDS BASE64-SCRIPT" from the virtio port sumeru.agent and answers
# "done ID STATUS", standard output in base64, "error", standard error in base64, "end ID".
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=vt100
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mkdir -p /dev/pts /dev/shm /sbin /usr/bin /usr/sbin
/bin/busybox mount -t devpts devpts /dev/pts
/bin/busybox mount -t tmpfs tmpfs /dev/shm
/bin/busybox --install -s /bin 2>/dev/null

while read -r module; do
    insmod "$module" || echo "init: $module was not loaded"
done </etc/modules
ip link set lo up

(
    while :; do
        setsid cttyhack sh -c 'cd /root; exec sh'
        sleep 1
    done
) &

port=
while [ -z "$port" ]; do
    for entry in /sys/class/virtio-ports/*; do
        if [ "$(cat "$entry/name" 2>/dev/null)" = sumeru.agent ]; then port=/dev/${entry##*/}; fi
    done
    [ -n "$port" ] || usleep 50000
done
exec 3<>"$port"
echo "init: agent on $port after $(cut -d' ' -f1 /proc/uptime) s" >/dev/console
echo "ready $(cat /proc/sys/kernel/random/boot_id)" >&3

while :; do
    while read -r id limit script <&3; do
        printf %s "$script" | base64 -d >/run/agent.script
        timeout -s KILL "$limit" sh /run/agent.script </dev/null >/run/agent.out 2>/run/agent.err 3<&-
        status=$?
        {
            echo "done $id $status"
            base64 /run/agent.out
            echo error
            base64 /run/agent.err
            echo "end $id"
        } >&3
    done
    # End of file: nobody is connected on the host's side.
    usleep 200000
done
