#!/bin/sh
# A whole Slurm on this machine, as its user and with nothing outside one folder: for trying --launcher slurm.
#
#   sh tests/ablation/launch/one_node.sh start DIR      then: export SLURM_CONF=DIR/slurm.conf; sinfo
#   sh tests/ablation/launch/one_node.sh stop DIR
#
# Needs munged, slurmctld, slurmd and sbatch (Debian: slurm-wlm, munge). The ports can be set: CTLD_PORT, SLURMD_PORT.
set -eu
PATH=$PATH:/usr/sbin:/sbin

usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

stop() {
    export SLURM_CONF="$1/slurm.conf"
    if [ -s "$1/slurmctld.pid" ] && scancel --me 2>/dev/null; then
        for _ in $(seq 100); do [ -n "$(squeue --noheader)" ] || break; sleep 0.1; done
    fi
    for daemon in slurmd slurmctld munged; do
        [ -s "$1/$daemon.pid" ] || continue
        pid=$(cat "$1/$daemon.pid")
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
}

start() {
    for program in munged slurmctld slurmd sbatch; do
        command -v $program >/dev/null || { echo "error: $program is not installed (Debian: slurm-wlm, munge)." >&2; exit 2; }
    done
    dir=$(mkdir -p "$1" && cd "$1" && pwd)
    if [ -n "$(ls -A "$dir")" ]; then
        echo "error: $dir is not empty; give a new folder." >&2
        exit 2
    fi
    mkdir -m 700 "$dir/munge" "$dir/state" "$dir/spool"
    user=$(id -un) host=$(hostname -s)
    cores=$(getconf _NPROCESSORS_ONLN) memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    head -c 1024 /dev/urandom >"$dir/munge/key" && chmod 600 "$dir/munge/key"
    cat >"$dir/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${CTLD_PORT:-16817}
SlurmdPort=${SLURMD_PORT:-16818}
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
# No control groups: they need more than a user may do.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    # --force: the folder may lie where others can write, such as /tmp.
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" 2>"$dir/munge/words"
    export SLURM_CONF="$dir/slurm.conf"
    slurmctld && slurmd
    for _ in $(seq 150); do
        if sinfo -h -o %T 2>/dev/null | grep -q '^idle'; then
            echo "$SLURM_CONF"
            return
        fi
        sleep 0.2
    done
    echo "error: the node is not ready after 30 seconds; see $dir/slurmctld.log and slurmd.log." >&2
    stop "$dir"
    exit 1
}

[ $# = 2 ] || usage
case $1 in
    start) start "$2" ;;
    stop) stop "$(cd "$2" && pwd)" ;;
    *) usage ;;
esac
