# shellcheck shell=bash
# A one-node cluster made of real parts: certificates by kubeadm, etcd, kube-apiserver, kube-controller-manager,
# kube-scheduler, containerd with a bridge network, and the agent under test. Source it after lib.sh.
#
# CLUSTER is the folder that holds all of it (certificates, kubeconfigs, logs, pids). On a machine it is in the cache and
# containerd's state is in it as well; inside hack/isolated it is /run/ferrolet and containerd is where a node has it.

CLUSTER=${FERROLET_CLUSTER:-$FERROLET_CACHE/cluster}
NODE=${FERROLET_NODE:-ferrolet}
POD_NETWORK=${FERROLET_POD_NETWORK:-10.244.0.0/24}
SERVICE_NETWORK=10.96.0.0/16
NETWORK=ferrolet       # the CNI network's name: it marks the iptables rules
BRIDGE=ferrolet0
if [[ -n ${FERROLET_ISOLATED:-} ]]; then
  CGROUP_ROOT=/ RUNTIME_ROOT=/var/lib/containerd RUNTIME_STATE=/run/containerd RUNTIME_SOCKET=/run/containerd/containerd.sock
else
  CGROUP_ROOT=/ferrolet RUNTIME_ROOT=$CLUSTER/containerd RUNTIME_STATE=$CLUSTER/run/containerd
  RUNTIME_SOCKET=$CLUSTER/run/containerd.sock
fi
export CLUSTER NODE RUNTIME_SOCKET CGROUP_ROOT BRIDGE NETWORK

kubectl() { "$BIN/kubectl" --kubeconfig "$CLUSTER/admin.conf" "$@"; }
containers() { "$BIN/ctr" -a "$RUNTIME_SOCKET" -n k8s.io "$@" 2> >(grep -v DEPRECATION >&2); }
node_address() { ip -4 -o addr show scope global | awk '{sub("/.*", "", $4); print $4; exit}'; }

# free_ports PORTS...: a process that was just ended may hold its port for a moment.
free_ports() {
  local port tries
  for port in "$@"; do
    for ((tries = 50; tries > 0; tries--)); do
      [[ -n $(ss -Hltn "sport = :$port") ]] || continue 2
      sleep 0.1
    done
    die "port $port is taken by something else on this machine"
  done
}

certificates() {
  local address config=$CLUSTER/kubeadm.yaml
  [[ -e $CLUSTER/pki/.complete ]] && return 0
  address=$(node_address)
  [[ -n $address ]] || die 'this machine has no global IPv4 address, which kubeadm needs for the API server'
  cat >"$config" <<Y
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: $address, bindPort: 6443}
nodeRegistration: {name: $NODE, criSocket: "unix://$RUNTIME_SOCKET"}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v$KUBERNETES_VERSION
certificatesDir: $CLUSTER/pki
controlPlaneEndpoint: 127.0.0.1:6443
networking: {podSubnet: $POD_NETWORK, serviceSubnet: $SERVICE_NETWORK}
Y
  "$BIN/kubeadm" init phase certs all --config "$config" >"$CLUSTER/log/kubeadm.log"
  "$BIN/kubeadm" init phase kubeconfig all --config "$config" --kubeconfig-dir "$CLUSTER" >>"$CLUSTER/log/kubeadm.log"
  touch "$CLUSTER/pki/.complete"
}

control_plane_start() {
  local pki=$CLUSTER/pki etcd=http://127.0.0.1:2379
  mkdir -p "$CLUSTER"/{run,log,etcd}
  certificates
  if ! running etcd >/dev/null; then
    free_ports 2379 2380
    launch etcd "$BIN/etcd" --data-dir "$CLUSTER/etcd" --listen-client-urls $etcd --advertise-client-urls $etcd \
      --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
  fi
  if ! running kube-apiserver >/dev/null; then
    free_ports 6443
    launch kube-apiserver "$BIN/kube-apiserver" --etcd-servers=$etcd --bind-address=0.0.0.0 --secure-port=6443 \
      --advertise-address="$(node_address)" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
      --enable-bootstrap-token-auth=true --allow-privileged=true --service-cluster-ip-range=$SERVICE_NETWORK \
      --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
      --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
      --service-account-issuer=https://kubernetes.default.svc.cluster.local \
      --kubelet-client-certificate="$pki/apiserver-kubelet-client.crt" \
      --kubelet-client-key="$pki/apiserver-kubelet-client.key" --kubelet-preferred-address-types=InternalIP \
      --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --proxy-client-cert-file="$pki/front-proxy-client.crt" \
      --proxy-client-key-file="$pki/front-proxy-client.key" --requestheader-extra-headers-prefix=X-Remote-Extra- \
      --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User
  fi
  wait_for 90 'kube-apiserver' api_ready || { tail -n 20 "$CLUSTER"/log/{etcd,kube-apiserver}.log >&2; return 1; }
  # kubeadm binds the group of admin.conf during its own init; here its phases only write the files.
  kubectl get clusterrolebinding kubeadm:cluster-admins >/dev/null 2>&1 ||
    "$BIN/kubectl" --kubeconfig "$CLUSTER/super-admin.conf" create clusterrolebinding kubeadm:cluster-admins \
      --clusterrole=cluster-admin --group=kubeadm:cluster-admins >/dev/null
  # The API server's own client certificate may speak to the node: kubeadm's init grants that to its user.
  kubectl get clusterrolebinding kube-apiserver-kubelet-admin >/dev/null 2>&1 ||
    kubectl create clusterrolebinding kube-apiserver-kubelet-admin --clusterrole=system:kubelet-api-admin \
      --user=kube-apiserver-kubelet-client >/dev/null
  running kube-controller-manager >/dev/null || launch kube-controller-manager "$BIN/kube-controller-manager" \
    --kubeconfig "$CLUSTER/controller-manager.conf" --root-ca-file="$pki/ca.crt" --bind-address=127.0.0.1 \
    --service-account-private-key-file="$pki/sa.key" --use-service-account-credentials=true --leader-elect=false \
    --controllers='*,bootstrapsigner,tokencleaner' \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" --cluster-cidr="$POD_NETWORK"
  running kube-scheduler >/dev/null || launch kube-scheduler "$BIN/kube-scheduler" \
    --kubeconfig "$CLUSTER/scheduler.conf" --leader-elect=false --bind-address=127.0.0.1
  # Pods are refused until their namespace has its service account.
  wait_for 60 'the default service account' kubectl get serviceaccount default
}
api_ready() { "$BIN/kubectl" --kubeconfig "$CLUSTER/super-admin.conf" get --raw /readyz "$@"; }

runtime_start() {
  mkdir -p "$CLUSTER"/{run,log,cni} "$RUNTIME_ROOT" "$RUNTIME_STATE"
  cat >"$CLUSTER/containerd.toml" <<T
version = 3
root = "$RUNTIME_ROOT"
state = "$RUNTIME_STATE"
oom_score = 0
[grpc]
  address = "$RUNTIME_SOCKET"
[plugins.'io.containerd.nri.v1.nri']
  disable = true               # it would listen in /run/nri
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '$PAUSE_IMAGE'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '$IMAGES/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
  # A machine without CAP_SYS_RESOURCE cannot lower a score.
  restrict_oom_score_adj = true
  enable_cdi = true
  cdi_spec_dirs = ['/etc/cdi', '/var/run/cdi']
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = '$BIN/runc'
      Root = '$RUNTIME_STATE/runc'
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.test-handler]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.test-handler.options]
      BinaryName = '$BIN/runc'
      Root = '$RUNTIME_STATE/runc'
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/lib/cni']
    conf_dir = '$CLUSTER/cni'
T
  cat >"$CLUSTER/cni/10-$NETWORK.conflist" <<J
{"cniVersion": "1.0.0", "name": "$NETWORK", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$CLUSTER/run/cni", "ranges": [[{"subnet": "$POD_NETWORK"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
  if ! running containerd >/dev/null; then
    if [[ -n ${FERROLET_ISOLATED:-} ]]; then
      launch containerd "$HACK/in-cgroup" runtime "$BIN/containerd" -c "$CLUSTER/containerd.toml"
    else
      launch containerd "$BIN/containerd" -c "$CLUSTER/containerd.toml"
    fi
  fi
  wait_for 30 'containerd' containers version || { tail -n 20 "$CLUSTER/log/containerd.log" >&2; return 1; }
  import_images
}

# import_images: the images that FERROLET_IMAGES names, if the runtime does not have them yet in this form; unless it is set,
# those that everyone needs, and inside hack/isolated those of the node tests, if they have been made.
import_images() {
  local archive mark name names=("${BASE_IMAGES[@]}")
  [[ -z ${FERROLET_ISOLATED:-} ]] || names+=("${TEST_IMAGES[@]}")
  # shellcheck disable=SC2206 # Several names in one variable.
  [[ -z ${FERROLET_IMAGES+set} ]] || names=($FERROLET_IMAGES)
  mkdir -p "$CLUSTER/run/imported"
  for name in "${names[@]}"; do
    archive=$IMAGES/$name.tar mark=$CLUSTER/run/imported/$name.tar
    [[ -e $archive || " ${TEST_IMAGES[*]} " != *" $name "* ]] || continue
    [[ -e $mark && $mark -nt $archive ]] && continue
    containers images import "$archive" >>"$CLUSTER/log/import.log" 2>&1 || die "import of $archive failed; see $CLUSTER/log/import.log"
    touch "$mark"
  done
}

# ---- the agent

# agent_configure: the files that either agent is started with.
agent_configure() {
  mkdir -p "$CLUSTER/manifests"
  cat >"$CLUSTER/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$RUNTIME_SOCKET
cgroupDriver: cgroupfs
cgroupRoot: $CGROUP_ROOT
failCgroupV1: false          # v1.35 and later leave at once on cgroup v1 without this
failSwapOn: false
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $CLUSTER/pki/ca.crt}
authorization: {mode: Webhook}
staticPodPath: $CLUSTER/manifests
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
Y
  # Outside of a network namespace of its own, the peer must not lay its iptables chains into the machine's.
  [[ -n ${FERROLET_ISOLATED:-} ]] || printf 'makeIPTablesUtilChains: false\n' >>"$CLUSTER/kubelet.yaml"
}

agent_arguments() {
  printf '%s\n' --config="$CLUSTER/kubelet.yaml" --kubeconfig="$CLUSTER/kubelet.conf" --hostname-override="$NODE" \
    --node-ip="$(node_address)" --cert-dir=/var/lib/kubelet/pki -v="${FERROLET_VERBOSITY:-2}"
  # shellcheck disable=SC2086 # Several flags in one variable.
  [[ -z ${FERROLET_AGENT_FLAGS:-} ]] || printf '%s\n' $FERROLET_AGENT_FLAGS
}

# agent_start ferrolet|kubelet: returns when the node is Ready by the word of the agent that was started.
agent_start() {
  local binary arguments began
  binary=$(agent_binary "$1")
  [[ -x $binary ]] || die "no executable $binary"
  agent_configure
  free_ports 10250 10248
  mapfile -t arguments < <(agent_arguments)
  began=$(date -u +%Y-%m-%dT%H:%M:%S)
  launch agent "$binary" "${arguments[@]}"
  printf '%s' "$1" >"$CLUSTER/run/agent.kind"
  wait_for 90 "node $NODE to be Ready" node_ready "$began" || {
    kubectl get node "$NODE" -o jsonpath='{range .status.conditions[*]}{.type}={.status} {.message}{"\n"}{end}' >&2 || true
    tail -n 30 "$CLUSTER/log/agent.log" >&2
    return 1
  }
}

# node_ready SINCE: Ready, with a lease renewed by whoever was started at SINCE.
node_ready() {
  local renewed
  running agent >/dev/null || return 1
  renewed=$(kubectl get lease -n kube-node-lease "$NODE" -o jsonpath='{.spec.renewTime}')
  [[ $renewed > $1 ]] || return 1
  [[ $(kubectl get node "$NODE" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

# agent_is_current KIND: the running agent is of this kind and its program has not been built anew since.
agent_is_current() {
  local pid
  pid=$(running agent) && [[ $(cat "$CLUSTER/run/agent.kind") == "$1" ]] || return 1
  [[ $(readlink "/proc/$pid/exe") == "$(readlink -f "$(agent_binary "$1")")" ]]
}

# ---- cgroups: every hierarchy of this machine, v1 and v2

# cgroup_mounts: prints "MOUNT_POINT TYPE OPTIONS" of each.
cgroup_mounts() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2, $3, $4}' /proc/mounts; }

# cgroup_make PATH: a directory in every hierarchy, ready to hold processes and to be divided further.
cgroup_make() {
  local at type
  while read -r at type _; do
    # Beside v1 hierarchies, the v2 one only tracks processes.
    if [[ $type == cgroup2 && $at == /sys/fs/cgroup ]]; then controllers_on "$at"; fi
    mkdir -p "$at/$1"
    if [[ $type == cgroup && -e $at/$1/cpuset.mems ]]; then
      cat "$at/cpuset.cpus" >"$at/$1/cpuset.cpus"
      cat "$at/cpuset.mems" >"$at/$1/cpuset.mems"
    fi
  done < <(cgroup_mounts)
}

# controllers_on DIR: lets the children of a v2 directory use every controller it has.
controllers_on() {
  local controller
  local -a controllers
  read -r -a controllers 2>/dev/null <"$1/cgroup.controllers" || true
  for controller in "${controllers[@]}"; do
    { echo "+$controller" >"$1/cgroup.subtree_control"; } 2>/dev/null || true
  done
}

# cgroup_enter PATH: moves this very process there.
cgroup_enter() {
  local at type
  while read -r at type _; do echo "$BASHPID" >"$at/$1/cgroup.procs"; done < <(cgroup_mounts)
}

# cgroup_processes PATH: every process below it, in any hierarchy.
cgroup_processes() {
  local at
  while read -r at _; do
    [[ -d $at/$1 ]] && find "$at/$1" -name cgroup.procs -exec cat {} + 2>/dev/null
  done < <(cgroup_mounts) | sort -un
}

cgroup_remove() {
  local at tries
  while read -r at _; do
    for ((tries = 20; tries > 0; tries--)); do
      [[ -d $at/$1 ]] || break
      find "$at/$1" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
    [[ ! -d $at/$1 ]] || printf 'cgroup %s is still there\n' "$at/$1" >&2
  done < <(cgroup_mounts)
}
