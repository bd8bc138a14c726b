# shellcheck shell=bash
# What every script in hack/ shares: where things are, versions, progress, processes by pid. Source it; it starts nothing.

HACK=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
REPO=$(dirname "$HACK")
FERROLET_CACHE=${FERROLET_CACHE:-$HOME/.cache/ferrolet}
BIN=$FERROLET_CACHE/bin
IMAGES=$FERROLET_CACHE/images
TARGET=${CARGO_TARGET_DIR:-$REPO/target}
export HACK REPO FERROLET_CACHE BIN IMAGES TARGET
export PATH=$BIN:$PATH

KUBERNETES_VERSION=1.37.2
ETCD_VERSION=3.7.3
CONTAINERD_VERSION=2.4.2
RUNC_VERSION=1.5.2
METRICS_SERVER_VERSION=0.9.0
CARGO_DENY_VERSION=0.20.2
# What `hack/up` needs, the node tests, and the upstream suite.
# shellcheck disable=SC2034
BASE_IMAGES=(pause busybox nginx) TEST_IMAGES=(agnhost) SUITE_IMAGES=(e2e-busybox nonewprivs nonroot perl ipc-utils glibc-dns-testing)
PAUSE_IMAGE=registry.k8s.io/pause:3.10.2
GO_MINIMUM=1.26
RUST_MINIMUM=1.95
export KUBERNETES_VERSION ETCD_VERSION CONTAINERD_VERSION RUNC_VERSION METRICS_SERVER_VERSION CARGO_DENY_VERSION PAUSE_IMAGE GO_MINIMUM RUST_MINIMUM

say() { printf '[%3ds] %s\n' "$SECONDS" "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
need_root() { [[ $EUID -eq 0 ]] || die 'must run as root: it mounts, makes cgroups and network interfaces'; }

# The comment block at the head of a script is its help text.
usage() { awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0"; exit "${1:-0}"; }

# at_least HAVE WANT: compares dotted versions.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# spawn COMMAND...: starts it in the background, where `set -e` holds in it whatever its caller asks, as SPAWNED. It has a
# process group of its own, so that an interrupt of this script takes along all that it started.
spawn() {
  set -m
  (set +m; set -euo pipefail; "$@") </dev/null &
  SPAWNED=$!
  set +m
  trap 'kill -TERM -- "-$SPAWNED" 2>/dev/null; wait "$SPAWNED"; exit 130' INT TERM HUP
}
reap() { local rc=0; wait "$SPAWNED" || rc=$?; trap - INT TERM HUP; return "$rc"; }

# step TITLE COMMAND...: runs it with its output in a log file, says what it is at every 15 s, shows the log's end if it fails.
step() {
  local title=$1 log pid rc=0 began=$SECONDS
  shift
  mkdir -p "$FERROLET_CACHE/log"
  log=$FERROLET_CACHE/log/$(tr -c 'a-zA-Z0-9\n' - <<<"$title").log
  spawn "$@" >"$log" 2>&1
  pid=$SPAWNED
  local next=$((SECONDS + 15)) told=
  while [[ -e /proc/$pid/stat ]]; do
    if ((SECONDS >= next)); then
      next=$((SECONDS + 15)) told=1
      say "$title: $((SECONDS - began)) s so far; $(tail -n 1 "$log" | tr '\r' '\n' | tail -n 1 | cut -c1-100)"
    fi
    sleep 0.2
    [[ $(awk '{print $3}' "/proc/$pid/stat" 2>/dev/null || echo Z) == Z ]] && break
  done
  reap || rc=$?
  if ((rc)); then
    tail -n 40 "$log" >&2
    die "$title failed with status $rc; all of its output: $log"
  fi
  if [[ -n $told ]] || ((SECONDS - began > 2)); then say "$title: done in $((SECONDS - began)) s"; fi
}

# wait_for SECONDS WHAT COMMAND...: tries the command until it succeeds.
wait_for() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { printf '%s: gave up waiting for %s\n' "${0##*/}" "$what" >&2; return 1; }
    sleep 0.2
  done
}

# ---- processes: a pid file holds the pid and the process's start time, so that a recycled pid is never taken for ours

# The program's name, which may hold anything, ends with the last parenthesis.
started_at() { local stat=''; read -r -d '' stat 2>/dev/null <"/proc/$1/stat" || [[ -n $stat ]] || return 1; awk '{print $20}' <<<"${stat##*) }"; }

# running NAME: prints the pid of what `launch NAME` started, if it is still there.
running() {
  local pid since
  read -r pid since 2>/dev/null <"$CLUSTER/run/$1.pid" || return 1
  [[ $(started_at "$pid") == "$since" ]] || return 1
  [[ $(awk '$1 == "State:" {print $2}' "/proc/$pid/status" 2>/dev/null) != Z ]] || return 1
  printf '%s' "$pid"
}

# launch NAME COMMAND...: starts a daemon that outlives this script; its command is kept for `hack/component start NAME`.
launch() {
  local name=$1 pid
  shift
  printf '%s\0' "$@" >"$CLUSTER/run/$name.cmd"
  setsid "$@" >>"$CLUSTER/log/$name.log" 2>&1 </dev/null 9>&- &
  pid=$!
  disown "$pid"
  printf '%s %s\n' "$pid" "$(started_at "$pid")" >"$CLUSTER/run/$name.pid"
}

# halt NAME [SIGNAL] [SECONDS]: ends it by its pid and waits until it is gone.
halt() {
  local pid tries
  pid=$(running "$1") || { rm -f "$CLUSTER/run/$1.pid"; return 0; }
  kill "-${2:-TERM}" "$pid"
  for ((tries = ${3:-15} * 20; tries > 0; tries--)); do
    running "$1" >/dev/null || { rm -f "$CLUSTER/run/$1.pid"; return 0; }
    sleep 0.05
  done
  printf '%s (pid %s) did not end within %s s; it gets SIGKILL\n' "$1" "$pid" "${3:-15}" >&2
  kill -KILL "$pid" 2>/dev/null || true
  rm -f "$CLUSTER/run/$1.pid"
  return 1
}

# isolated_runs: pids of the hack/isolated that are under way.
isolated_runs() {
  local dir
  for dir in "$FERROLET_CACHE"/isolated/[0-9]*; do
    if [[ $(tr '\0' ' ' 2>/dev/null < <(cat "/proc/${dir##*/}/cmdline" 2>/dev/null)) == *isolated* ]]; then echo "${dir##*/}"; fi
  done
}

# What the kubelet sets on a machine as a whole.
# shellcheck disable=SC2034
KERNEL_SETTINGS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

# ---- the agents

# agent_binary ferrolet|kubelet
agent_binary() {
  case $1 in
    ferrolet) printf '%s' "${FERROLET_BIN:-$TARGET/release/ferrolet}" ;;
    kubelet) printf '%s' "${FERROLET_PEER_BIN:-$BIN/kubelet}" ;;
    *) die "no such agent: $1" ;;
  esac
}

# build_ferrolet: as a release, unless FERROLET_BIN names a program to use as it is.
build_ferrolet() { [[ -n ${FERROLET_BIN:-} ]] || (cd "$REPO" && step 'build ferrolet (release)' cargo build --release --bin ferrolet); }
