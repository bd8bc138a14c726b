//! The families of `/metrics`, with the peer's names, labels and help (`pkg/kubelet/metrics`, `pkg/kubelet/server/metrics`,
//! component-base). A family is here only if the agent has something true to tell by it.

use super::family::{Counter, DEFAULT_BUCKETS, Family, Gauge, Histogram, LateGauge};
use super::text::Exposition;

const POD_START_BUCKETS: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0,
    600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
const IMAGE_PULL_BUCKETS: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0,
    3600.0,
];
/// From 5 ms, each 2.5 times the one before, with the rounding errors of the peer's way to count them.
const RUNTIME_BUCKETS: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];
const STATUS_BUCKETS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
/// From a minute to four years.
const ROTATION_BUCKETS: &[f64] =
    &[60.0, 3600.0, 14400.0, 86400.0, 604_800.0, 2_592_000.0, 7_776_000.0, 15_552_000.0, 31_104_000.0, 124_416_000.0];
const STORAGE_BUCKETS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];
const REST_BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

macro_rules! families {
    ($($(#[$doc:meta])* $ident:ident: $kind:ident($name:expr, $help:expr, $labels:expr $(, $bounds:expr)?);)*) => {
        $($(#[$doc])* pub static $ident: $kind = $kind::new($name, $help, $labels $(, $bounds)?);)*
        /// All of them, by name.
        static ALL: &[&dyn Family] = &[$(&$ident),*];
    };
}

/// Of the stages of a pod's start: from hundredths of a second to minutes.
const STAGE_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Of the API server's answers about callers.
const REVIEW_BUCKETS: &[f64] = &[0.25, 0.5, 0.7, 1.0, 1.5, 3.0, 5.0, 10.0];
/// Of requests and answers: from 64 bytes to 16 MiB.
const SIZE_BUCKETS: &[f64] =
    &[64.0, 256.0, 512.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

families! {
    /// Time of the API server to say who has a token.
    TOKEN_REVIEW_DURATION: Histogram("apiserver_delegated_authn_request_duration_seconds", "[ALPHA] Request latency in seconds. Broken down by status code.", &["code"], REVIEW_BUCKETS);
    /// Questions to it who has a token.
    TOKEN_REVIEWS: Counter("apiserver_delegated_authn_request_total", "[ALPHA] Number of HTTP requests partitioned by status code.", &["code"]);
    /// Time of the API server to say what a caller may do.
    ACCESS_REVIEW_DURATION: Histogram("apiserver_delegated_authz_request_duration_seconds", "[ALPHA] Request latency in seconds. Broken down by status code.", &["code"], REVIEW_BUCKETS);
    /// Questions to it what a caller may do.
    ACCESS_REVIEWS: Counter("apiserver_delegated_authz_request_total", "[ALPHA] Number of HTTP requests partitioned by status code.", &["code"]);
    /// How far a pod's start was after how long. The peer has no such family.
    POD_START_STAGE: Histogram("ferrolet_pod_start_stage_seconds", "Seconds from the first sight of a pod until its start had reached a stage: volumes (mounted), images (present), sandbox (made), started (its containers), ready. The stage scheduled counts from the binding to the first sight.", &["stage"], STAGE_BUCKETS);
    /// Pods that may run, by whether they are static.
    ACTIVE_PODS: Gauge("kubelet_active_pods", "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.", &["static"]);
    /// Pods that were refused.
    ADMISSION_REJECTIONS: Counter("kubelet_admission_rejections_total", "[ALPHA] Cumulative number pod admission rejections by the Kubelet.", &["reason"]);
    /// Requests for a client certificate that failed.
    CLIENT_RENEW_ERRORS: Counter("kubelet_certificate_manager_client_expiration_renew_errors", "[ALPHA] Counter of certificate renewal errors.", &[]);
    /// Time that the client certificate is still valid; infinite while there is none.
    CLIENT_TTL: LateGauge("kubelet_certificate_manager_client_ttl_seconds", "[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF.", &[]);
    /// Age of serving certificates when they were replaced.
    SERVER_ROTATION_AGE: Histogram("kubelet_certificate_manager_server_rotation_seconds", "[ALPHA] Histogram of the number of seconds the previous certificate lived before being rotated.", &[], ROTATION_BUCKETS);
    /// Time that the serving certificate is still valid; infinite while there is none.
    SERVER_TTL: LateGauge("kubelet_certificate_manager_server_ttl_seconds", "[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.", &[]);
    /// Time to make, change and remove cgroups.
    CGROUP_DURATION: Histogram("kubelet_cgroup_manager_duration_seconds", "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.", &["operation_type"], DEFAULT_BUCKETS);
    /// 1 or 2.
    CGROUP_VERSION: Gauge("kubelet_cgroup_version", "[ALPHA] cgroup version on the hosts.", &[]);
    /// Containers of pods that were begun.
    CONTAINERS_PER_POD: Histogram("kubelet_containers_per_pod_count", "[ALPHA] The number of containers per pod.", &[], &[1.0, 2.0, 4.0, 8.0, 16.0]);
    /// From which version on the peer refuses the runtime.
    CRI_LOSING_SUPPORT: Gauge("kubelet_cri_losing_support", "[ALPHA] the Kubernetes version that the currently running CRI implementation will lose support on if not upgraded.", &["version"]);
    /// Pods that the node should run.
    DESIRED_PODS: Gauge("kubelet_desired_pods", "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.", &["static"]);
    /// Evicted pods.
    EVICTIONS: Counter("kubelet_evictions", "[ALPHA] Cumulative number of pod evictions by eviction signal", &["eviction_signal"]);
    /// Start of the first pod with a network of its own, from its creation, without pulls and init containers.
    FIRST_NETWORK_POD_START: Gauge("kubelet_first_network_pod_start_sli_duration_seconds", "[INTERNAL] Duration in seconds to start the first network pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", &[]);
    /// Requests under way.
    HTTP_INFLIGHT: Gauge("kubelet_http_inflight_requests", "[ALPHA] Number of the inflight http requests", &["long_running", "method", "path", "server_type"]);
    /// Time of requests.
    HTTP_DURATION: Histogram("kubelet_http_requests_duration_seconds", "[ALPHA] Duration in seconds to serve http requests", &["long_running", "method", "path", "server_type"], DEFAULT_BUCKETS);
    /// Requests.
    HTTP_REQUESTS: Counter("kubelet_http_requests_total", "[ALPHA] Number of the http requests received since the server started", &["long_running", "method", "path", "server_type"]);
    /// Looks for a container's image.
    ENSURE_IMAGE_REQUESTS: Counter("kubelet_image_manager_ensure_image_requests_total", "[ALPHA] Number of ensure-image requests processed by the kubelet.", &["present_locally", "pull_policy", "pull_required"]);
    /// Time of image pulls by the images' size.
    IMAGE_PULL_DURATION: Histogram("kubelet_image_pull_duration_seconds", "[ALPHA] Duration in seconds to pull an image.", &["image_size_in_bytes"], IMAGE_PULL_BUCKETS);
    /// Image volumes that the runtime could not mount.
    IMAGE_VOLUME_ERRORS: Counter("kubelet_image_volume_mounted_errors_total", "[BETA] Number of failed image volume mounts.", &[]);
    /// Image volumes that it mounted.
    IMAGE_VOLUMES_MOUNTED: Counter("kubelet_image_volume_mounted_succeed_total", "[BETA] Number of successful image volume mounts.", &[]);
    /// Image volumes of containers that were begun.
    IMAGE_VOLUMES_REQUESTED: Counter("kubelet_image_volume_requested_total", "[BETA] Number of requested image volumes.", &[]);
    /// Looks whether a pod may use an image that is on the node.
    MUST_PULL_CHECKS: Counter("kubelet_imagemanager_image_mustpull_checks_total", "[ALPHA] Counter for how many times kubelet checked whether credentials need to be re-verified to access an image", &["result"]);
    /// Records of images that were pulled.
    PULLED_RECORDS: Gauge("kubelet_imagemanager_ondisk_pulledrecords", "[ALPHA] Number of ImagePulledRecords stored on disk.", &[]);
    /// Records of images that are being pulled.
    PULL_INTENTS: Gauge("kubelet_imagemanager_ondisk_pullintents", "[ALPHA] Number of ImagePullIntents stored on disk.", &[]);
    /// Hooks over TLS whose server spoke plain HTTP.
    HOOK_FALLBACKS: Counter("kubelet_lifecycle_handler_http_fallbacks_total", "[ALPHA] The number of times lifecycle handlers successfully fell back to http from https.", &[]);
    /// Ephemeral containers of the node's pods.
    MANAGED_EPHEMERAL_CONTAINERS: Gauge("kubelet_managed_ephemeral_containers", "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.", &[]);
    /// Memory that is kept for Burstable pods.
    MEMORY_LOW: Gauge("kubelet_memory_qos_node_memory_low_bytes", "[ALPHA] Total cgroup v2 memory.low in bytes for Burstable pods. This memory is soft-reserved and may be reclaimed under extreme pressure.", &[]);
    /// Memory that is kept for Guaranteed pods.
    MEMORY_MIN: Gauge("kubelet_memory_qos_node_memory_min_bytes", "[ALPHA] Total cgroup v2 memory.min in bytes for Guaranteed pods. This memory is hard-reserved and never reclaimed by the kernel.", &[]);
    /// Where containers' figures come from.
    METRICS_PROVIDER: Gauge("kubelet_metrics_provider", "[ALPHA] Metrics provider used by kubelet to collect container stats. Values can be 'cadvisor' and 'cri'", &["provider"]);
    /// Static pods, each with a mirror.
    MIRROR_PODS: Gauge("kubelet_mirror_pods", "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)", &[]);
    /// The node's name.
    NODE_NAME: Gauge("kubelet_node_name", "[ALPHA] The node's name. The count is always 1.", &["node"]);
    /// From the boot of a machine that was no node until it is a Ready one.
    NODE_STARTUP: Gauge("kubelet_node_startup_duration_seconds", "[ALPHA] Duration in seconds of node startup in total.", &[]);
    /// Of that, from the registration on.
    NODE_STARTUP_POST_REGISTRATION: Gauge("kubelet_node_startup_post_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup after registration.", &[]);
    /// Of that, until the agent began.
    NODE_STARTUP_PRE_AGENT: Gauge("kubelet_node_startup_pre_kubelet_duration_seconds", "[ALPHA] Duration in seconds of node startup before kubelet starts.", &[]);
    /// Of that, until the first attempt to register.
    NODE_STARTUP_PRE_REGISTRATION: Gauge("kubelet_node_startup_pre_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup before registration.", &[]);
    /// Of that, from the first attempt to register until it succeeded.
    NODE_STARTUP_REGISTRATION: Gauge("kubelet_node_startup_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup during registration.", &[]);
    /// Pods that the runtime held and no source knew.
    ORPHANED_RUNTIME_PODS: Counter("kubelet_orphaned_runtime_pods_total", "[ALPHA] Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.", &[]);
    /// When the runtime was last listed.
    PLEG_LAST_SEEN: Gauge("kubelet_pleg_last_seen_seconds", "[ALPHA] Timestamp in seconds when PLEG was last seen active.", &[]);
    /// Time to read one pod from the runtime.
    PLEG_POD_RELIST_DURATION: Histogram("kubelet_pleg_pod_relist_duration_seconds", "[ALPHA] Duration in seconds for relisting a single pod in PLEG.", &[], DEFAULT_BUCKETS);
    /// Time to list the runtime's pods.
    PLEG_RELIST_DURATION: Histogram("kubelet_pleg_relist_duration_seconds", "[ALPHA] Duration in seconds for relisting pods in PLEG.", &[], DEFAULT_BUCKETS);
    /// Time between two lists.
    PLEG_RELIST_INTERVAL: Histogram("kubelet_pleg_relist_interval_seconds", "[ALPHA] Interval in seconds between relisting in PLEG.", &[], DEFAULT_BUCKETS);
    /// Pods that were taken, by where they say what they need.
    POD_LEVEL_ADMISSIONS: Counter("kubelet_pod_level_resources_admission_total", "[ALPHA] Total number of pods admitted during Kubelet admission, categorized by resource configuration mode (pod_and_container_level, pod_level, container_level, or empty for unconfigured/BestEffort) and QoS class.", &["config_mode", "qos_class"]);
    /// From the first sight of a pod until it runs.
    POD_START_DURATION: Histogram("kubelet_pod_start_duration_seconds", "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", &[], POD_START_BUCKETS);
    /// From a pod's creation until the API shows all its containers running, without pulls and init containers.
    POD_START_SLI_DURATION: Histogram("kubelet_pod_start_sli_duration_seconds", "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", &[], POD_START_BUCKETS);
    /// From a pod's creation until the API shows all its containers running.
    POD_START_TOTAL_DURATION: Histogram("kubelet_pod_start_total_duration_seconds", "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", &[], POD_START_BUCKETS);
    /// From a change of a status until the API has it.
    POD_STATUS_SYNC_DURATION: Histogram("kubelet_pod_status_sync_duration_seconds", "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.", &[], STATUS_BUCKETS);
    /// How long a worker's stretch of work takes.
    POD_WORKER_DURATION: Histogram("kubelet_pod_worker_duration_seconds", "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", &["operation_type"], DEFAULT_BUCKETS);
    /// From the first sight of a pod until its worker acts.
    POD_WORKER_START_DURATION: Histogram("kubelet_pod_worker_start_duration_seconds", "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.", &[], DEFAULT_BUCKETS);
    /// Pods that had to give way.
    PREEMPTIONS: Counter("kubelet_preemptions", "[ALPHA] Cumulative number of pod preemptions by preemption resource", &["preemption_signal"]);
    /// Pods that came again with the UID of one that had not ended yet.
    RESTARTED_PODS: Counter("kubelet_restarted_pods_total", "[ALPHA] Number of pods that have been restarted because they were deleted and recreated with the same UID while the kubelet was watching them (common for static pods, extremely uncommon for API pods)", &["static"]);
    /// Time to make sandboxes.
    RUN_PODSANDBOX_DURATION: Histogram("kubelet_run_podsandbox_duration_seconds", "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.", &["runtime_handler"], DEFAULT_BUCKETS);
    /// Sandboxes that could not be made.
    RUN_PODSANDBOX_ERRORS: Counter("kubelet_run_podsandbox_errors_total", "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.", &["runtime_handler"]);
    /// Containers by state.
    RUNNING_CONTAINERS: Gauge("kubelet_running_containers", "[ALPHA] Number of containers currently running", &["container_state"]);
    /// Pods with a ready sandbox.
    RUNNING_PODS: Gauge("kubelet_running_pods", "[ALPHA] Number of pods that have a running pod sandbox", &[]);
    /// Time of calls to the runtime.
    RUNTIME_DURATION: Histogram("kubelet_runtime_operations_duration_seconds", "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.", &["operation_type"], RUNTIME_BUCKETS);
    /// Calls to the runtime that failed.
    RUNTIME_ERRORS: Counter("kubelet_runtime_operations_errors_total", "[ALPHA] Cumulative number of runtime operation errors by operation type.", &["operation_type"]);
    /// Calls to the runtime.
    RUNTIME_OPERATIONS: Counter("kubelet_runtime_operations_total", "[ALPHA] Cumulative number of runtime operations by operation type.", &["operation_type"]);
    /// Requests for a serving certificate that failed.
    SERVER_RENEW_ERRORS: Counter("kubelet_server_expiration_renew_errors", "[ALPHA] Counter of certificate renewal errors.", &[]);
    /// Hooks that were woken from their sleep.
    SLEEPS_CUT_SHORT: Counter("kubelet_sleep_action_terminated_early_total", "[ALPHA] The number of times lifecycle sleep handler got terminated before it finishes", &[]);
    /// Containers that could not be started.
    STARTED_CONTAINERS_ERRORS: Counter("kubelet_started_containers_errors_total", "[ALPHA] Cumulative number of errors when starting containers", &["code", "container_type"]);
    /// Containers that were started.
    STARTED_CONTAINERS: Counter("kubelet_started_containers_total", "[ALPHA] Cumulative number of containers started", &["container_type"]);
    /// Sandboxes that could not be made.
    STARTED_PODS_ERRORS: Counter("kubelet_started_pods_errors_total", "[ALPHA] Cumulative number of errors when starting pods", &[]);
    /// Sandboxes that were made.
    STARTED_PODS: Counter("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started", &[]);
    /// Sandboxes with a user namespace of their own that could not be made.
    STARTED_USER_NAMESPACED_PODS_ERRORS: Counter("kubelet_started_user_namespaced_pods_errors_total", "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.", &[]);
    /// Sandboxes with a user namespace of their own.
    STARTED_USER_NAMESPACED_PODS: Counter("kubelet_started_user_namespaced_pods_total", "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.", &[]);
    /// Ends of containers.
    TERMINATED_CONTAINERS: Counter("kubelet_terminated_containers_total", "[ALPHA] Cumulative number of container terminations.", &["container_type", "exit_code", "reason"]);
    /// Time to measure what a volume holds.
    VOLUME_FIGURES_DURATION: Histogram("kubelet_volume_metric_collection_duration_seconds", "[ALPHA] Duration in seconds to calculate volume stats", &["metric_source"], DEFAULT_BUCKETS);
    /// Room in a claim's volume.
    VOLUME_AVAILABLE: Gauge("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", &["namespace", "persistentvolumeclaim"]);
    /// Size of a claim's volume.
    VOLUME_CAPACITY: Gauge("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", &["namespace", "persistentvolumeclaim"]);
    /// Files that a claim's volume can hold.
    VOLUME_INODES: Gauge("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", &["namespace", "persistentvolumeclaim"]);
    /// Files that can still be made there.
    VOLUME_INODES_FREE: Gauge("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", &["namespace", "persistentvolumeclaim"]);
    /// Files there.
    VOLUME_INODES_USED: Gauge("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", &["namespace", "persistentvolumeclaim"]);
    /// What of it is used.
    VOLUME_USED: Gauge("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", &["namespace", "persistentvolumeclaim"]);
    /// Streams that were asked for over a WebSocket.
    WEBSOCKET_REQUESTS: Counter("kubelet_websocket_streaming_requests_total", "[ALPHA] Total number of WebSocket streaming requests (exec/attach/portforward) received by the kubelet.", &["subresource"]);
    /// Pods that have a worker.
    WORKING_PODS: Gauge("kubelet_working_pods", "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.", &["config", "lifecycle", "static"]);
    /// Which version of Kubernetes this stands for.
    BUILD_INFO: Gauge("kubernetes_build_info", "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.", &["build_date", "compiler", "git_commit", "git_tree_state", "git_version", "go_version", "major", "minor", "platform"]);
    /// Which features are on.
    FEATURE_ENABLED: Gauge("kubernetes_feature_enabled", "[BETA] This metric records the data about the stage and enablement of a k8s feature.", &["name", "stage"]);
    /// CPU time of the agent.
    PROCESS_CPU: Counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", &[]);
    /// How many files it may open.
    PROCESS_MAX_FDS: Gauge("process_max_fds", "Maximum number of open file descriptors.", &[]);
    /// Bytes that came to the agent's network namespace.
    PROCESS_RECEIVED: Counter("process_network_receive_bytes_total", "Number of bytes received by the process over the network.", &[]);
    /// Bytes that left it.
    PROCESS_SENT: Counter("process_network_transmit_bytes_total", "Number of bytes sent by the process over the network.", &[]);
    /// How many are open.
    PROCESS_OPEN_FDS: Gauge("process_open_fds", "Number of open file descriptors.", &[]);
    /// Its memory.
    PROCESS_RESIDENT: Gauge("process_resident_memory_bytes", "Resident memory size in bytes.", &[]);
    /// When it was started.
    PROCESS_START: Gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", &[]);
    /// Its address space.
    PROCESS_VIRTUAL: Gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", &[]);
    /// How much of it it may use.
    PROCESS_VIRTUAL_MAX: Gauge("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes.", &[]);
    /// Time that requests to the API server wait for their turn.
    REST_WAIT: Histogram("rest_client_rate_limiter_duration_seconds", "[ALPHA] Client side rate limiter latency in seconds. Broken down by verb, and host.", &["host", "verb"], REST_BUCKETS);
    /// Time of requests to the API server.
    REST_DURATION: Histogram("rest_client_request_duration_seconds", "[ALPHA] Request latency in seconds. Broken down by verb, and host.", &["host", "verb"], REST_BUCKETS);
    /// Size of requests to the API server.
    REST_REQUEST_SIZE: Histogram("rest_client_request_size_bytes", "[ALPHA] Request size in bytes. Broken down by verb and host.", &["host", "verb"], SIZE_BUCKETS);
    /// Requests to the API server.
    REST_REQUESTS: Counter("rest_client_requests_total", "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.", &["code", "host", "method"]);
    /// Size of its answers, but for watches.
    REST_RESPONSE_SIZE: Histogram("rest_client_response_size_bytes", "[ALPHA] Response size in bytes. Broken down by verb and host.", &["host", "verb"], SIZE_BUCKETS);
    /// Time to set volumes up and to remove them.
    STORAGE_DURATION: Histogram("storage_operation_duration_seconds", "[BETA] Storage operation duration", &["migrated", "operation_name", "status", "volume_plugin"], STORAGE_BUCKETS);
    /// Volumes that pods should have and do have.
    VOLUMES: Gauge("volume_manager_total_volumes", "[ALPHA] Number of volumes in Volume Manager", &["plugin_name", "state"]);
}

/// Writes every family.
pub fn write_all(text: &mut Exposition) {
    for family in ALL {
        family.write(text);
    }
}

/// Whether a health check was passed when it was last asked. Of `/metrics/slis` alone, as the next one.
pub static HEALTHCHECK: Gauge = Gauge::new(
    "kubernetes_healthcheck",
    "[STABLE] This metric records the result of a single healthcheck.",
    &["name", "type"],
);
/// Health checks by what came out.
pub static HEALTHCHECKS: Counter = Counter::new(
    "kubernetes_healthchecks_total",
    "[STABLE] This metric records the results of all healthcheck.",
    &["name", "status", "type"],
);

/// The label `image_size_in_bytes` of a size.
pub fn image_size_label(bytes: u64) -> &'static str {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const LABELS: [(u64, &str); 12] = [
        (100 * GIB, "GT100GB"),
        (60 * GIB, "60GB-100GB"),
        (40 * GIB, "40GB-60GB"),
        (30 * GIB, "30GB-40GB"),
        (20 * GIB, "20GB-30GB"),
        (10 * GIB, "10GB-20GB"),
        (5 * GIB, "5GB-10GB"),
        (GIB, "1GB-5GB"),
        (500 * MIB, "500MB-1GB"),
        (100 * MIB, "100MB-500MB"),
        (10 * MIB, "10MB-100MB"),
        (0, "0-10MB"),
    ];
    LABELS.iter().find(|(above, _)| bytes > *above).map_or("N/A", |(_, label)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_labels_are_in_order() {
        let descriptions: Vec<_> = ALL.iter().map(|family| family.description()).collect();
        assert!(descriptions.iter().map(|d| d.name).is_sorted(), "families by name");
        for description in descriptions {
            assert!(description.labels.is_sorted(), "labels of {}", description.name);
        }
    }
}
