#!/usr/bin/env bash
# A Slurm on this machine alone, from Debian's packages (apt-get install slurm-wlm munge), for
# tests: its daemons run as root, and nothing is written into an accounting database.
#
#   slurm.sh start FOLDER [GPUS [NODES]]   up, with its logs and state in FOLDER; GPUS of each node
#                                          are made up, and so are all NODES but one
#   slurm.sh stop FOLDER                   down again, and /etc/slurm as it was before
#
# Exit status 3: this machine cannot have it; standard error says why.
set -euo pipefail

conf=/etc/slurm/slurm.conf
mark="# of tests/workflow/slurm.sh"

cannot() {
    echo "$1" >&2
    exit 3
}

need() {
    local command
    for command in munged slurmctld slurmd sbatch sinfo scontrol; do
        command -v "$command" >/dev/null || PATH=$PATH:/usr/sbin command -v "$command" >/dev/null ||
            cannot "no $command: apt-get install slurm-wlm munge"
    done
    [ "$(id -u)" = 0 ] || cannot "Slurm's daemons are started as root; this is $(id -un)"
    [ ! -e "$conf" ] || cannot "$conf exists: this machine has a Slurm already, or one was left up"
    [ -r /etc/munge/munge.key ] || cannot "no /etc/munge/munge.key: mungekey --create"
}

# The environment variable SLURM_CONF does not reach the srun within a job, so the files lie where
# Slurm looks for them.
configure() {
    local folder=$1 gpus=$2 nodes=$3 host memory node
    host=$(hostname -s)
    memory=$(awk '/^MemTotal/ { print int($2 / 1024 * 0.95) }' /proc/meminfo)
    mkdir -p /etc/slurm "$folder/ctld" "$folder/gpus"
    cat >"$conf" <<EOF
$mark
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/jobs.txt
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2
StateSaveLocation=$folder/ctld
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.slurmd.log
$([ "$gpus" = 0 ] || echo "GresTypes=gpu")
$(for node in $(seq "$nodes"); do
        echo "NodeName=node$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + node))" \
            "CPUs=$(nproc) RealMemory=$memory State=UNKNOWN $([ "$gpus" = 0 ] || echo "Gres=gpu:$gpus")"
    done)
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
    if [ "$gpus" != 0 ]; then
        # Slurm counts the files; nothing ever opens them.
        (cd "$folder/gpus" && seq 0 $((gpus - 1)) | xargs touch)
        echo "Name=gpu File=$folder/gpus/[0-$((gpus - 1))]" >/etc/slurm/gres.conf
    fi
}

start() {
    local folder=$1 gpus=$2 nodes=$3 node
    need
    mkdir -p "$folder"
    configure "$folder" "$gpus" "$nodes"
    # munged wants a folder of its own, and an owner that is not root.
    install -d -o munge -g munge /run/munge /var/log/munge
    if ! munge -n >/dev/null 2>&1; then
        runuser -u munge -- /usr/sbin/munged >>"$folder/start.log" 2>&1
        touch "$folder/munged"
    fi
    /usr/sbin/slurmctld -f "$conf" >>"$folder/start.log" 2>&1
    for node in $(seq "$nodes"); do
        /usr/sbin/slurmd -N "node$node" -f "$conf" >>"$folder/start.log" 2>&1
    done
    for _ in $(seq 180); do
        if [ "$(sinfo --noheader --Node --format=%t 2>/dev/null | grep -c '^idle$')" = "$nodes" ]; then
            return
        fi
        grep -q 'fatal:' "$folder"/*.log && break
        sleep 0.5
    done
    tail "$folder"/*.log >&2
    stop "$folder"
    echo "Slurm did not come up; the ends of its logs are above" >&2
    exit 1
}

stop() {
    local folder=$1 name
    grep -qsF "$mark" "$conf" || return 0
    scancel --quiet --state=RUNNING 2>/dev/null || true
    scancel --quiet --state=PENDING 2>/dev/null || true
    for name in "$folder"/*.pid; do
        end "$name"
    done
    if [ -e "$folder/munged" ]; then
        end /run/munge/munged.pid
        rm -f "$folder/munged"
    fi
    rm -f "$conf" /etc/slurm/gres.conf
}

# Ends the process whose number a file holds, and waits until it is gone.
end() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    kill "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
}

folder=$(realpath -m "${2:?which folder}")
case ${1:-} in
    start) start "$folder" "${3:-0}" "${4:-1}" ;;
    stop) stop "$folder" ;;
    *)
        sed -n '2,9p' "$0" >&2
        exit 2
        ;;
esac
