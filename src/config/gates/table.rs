//! Every feature gate that kubelet v1.37.2 knows: its own, the API machinery's, and the ones of other components that share
//! the registry, since configurations name those too.

use super::{Spec, Stage};

/// Defines [`Gate`] and its table from lines of `Name: Stage default lock [needs Other...];`.
macro_rules! gates {
    ($($name:ident: $stage:ident $default:ident $lock:ident $(needs $($needed:ident)+)?;)+) => {
        /// A feature gate; each variant is the gate of that name.
        #[allow(missing_docs, reason = "a variant's name is the gate's name, which the Kubernetes documentation explains")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Gate {
            $($name,)+
        }

        /// The gates by name, in the order of [`Gate`].
        pub(super) const GATES: &[Spec] = &[
            $(Spec {
                gate: Gate::$name,
                name: stringify!($name),
                stage: Stage::$stage,
                default: is_on!($default),
                locked: is_locked!($lock),
                needs: &[$($(Gate::$needed),+)?],
            },)+
        ];
    };
}

macro_rules! is_on {
    (on) => {
        true
    };
    (off) => {
        false
    };
}

macro_rules! is_locked {
    (locked) => {
        true
    };
    (free) => {
        false
    };
}

gates! {
    APIResponseCompression: Beta on free;
    APIServerIdentity: Beta on free;
    APIServerWebhookAuthenticationToken: Alpha off free;
    APIServingWithRoutine: Alpha off free;
    AggregatedDiscoveryRemoveBetaType: Deprecated on locked;
    AllAlpha: Alpha off free;
    AllBeta: Beta off free;
    AllowDNSOnlyNodeCSR: Deprecated off free;
    AllowInsecureKubeletCertificateSigningRequests: Deprecated off free;
    AllowOverwriteTerminationGracePeriodSeconds: Deprecated off locked;
    AllowParsingUserUIDFromCertAuth: Beta on free;
    AllowServiceExternalIPs: Stable on free;
    AllowUnsafeMalformedObjectDeletion: Beta on free;
    AtomicFIFO: Beta on free;
    AtomicWriteVolumeUserFields: Alpha off free;
    AuthorizePodWebsocketUpgradeCreatePermission: Beta on free;
    CBORServingAndStorage: Alpha off free;
    CPUManagerPolicyAlphaOptions: Alpha off free;
    CPUManagerPolicyBetaOptions: Beta on free;
    CPUManagerPolicyOptions: Stable on locked;
    CRDObservedGenerationTracking: Beta on free;
    CRDValidationRatcheting: Stable on locked;
    CRIListStreaming: Alpha off free;
    CSIServiceAccountTokenSecrets: Stable on locked;
    CSIVolumeHealth: Alpha off free;
    ChangeContainerStatusOnKubeletRestart: Deprecated off free;
    ClearingNominatedNodeNameAfterBinding: Beta on free;
    ClientsAllowCARotation: Beta on free;
    ClientsAllowCBOR: Alpha off free;
    ClientsAllowTLSCacheGC: Beta on free;
    ClientsPreferCBOR: Alpha off free;
    CloudControllerManagerWatchBasedRoutesReconciliation: Alpha off free;
    CloudControllerManagerWebhook: Alpha off free;
    ClusterTrustBundle: Stable on free;
    ClusterTrustBundleProjection: Stable on free needs ClusterTrustBundle;
    ComponentFlagz: Beta on free;
    ComponentStatusz: Beta on free;
    CompositePodGroup: Alpha off free needs GenericWorkload TopologyAwareWorkloadScheduling;
    ConcurrentWatchObjectDecode: Beta on free;
    ConsistentListFromCacheSkipTimeoutFallback: Alpha off free;
    ConstrainedImpersonation: Beta on free;
    ContainerCheckpoint: Beta on free;
    ContainerRestartRules: Beta on free;
    ContainerStopSignals: Alpha off free;
    ContextualLogging: Beta on free;
    ControllerManagerReleaseLeaderElectionLockOnExit: Alpha off free;
    CoordinatedLeaderElection: Beta off free;
    CrossNamespaceVolumeDataSource: Alpha off free;
    CustomCPUCFSQuotaPeriod: Stable on free;
    CustomResourceFieldSelectors: Stable on locked;
    DRAAdminAccess: Stable on locked needs DynamicResourceAllocation;
    DRAConsumableCapacity: Beta on free needs DynamicResourceAllocation;
    DRADerivedAttributes: Alpha off free needs DynamicResourceAllocation;
    DRADeviceBindingConditions: Beta on free needs DRAResourceClaimDeviceStatus DynamicResourceAllocation;
    DRADeviceCompatibilityGroups: Alpha off free needs DRAPartitionableDevices DynamicResourceAllocation;
    DRADeviceTaintRules: Stable on free needs DRADeviceTaints;
    DRADeviceTaints: Stable on free needs DynamicResourceAllocation;
    DRAExtendedResource: Stable on locked needs DynamicResourceAllocation;
    DRAFractionalCapacityRange: Beta off free needs DRAConsumableCapacity;
    DRAListTypeAttributes: Alpha off free needs DynamicResourceAllocation;
    DRANodeAllocatableResources: Alpha off free needs DynamicResourceAllocation;
    DRAOptionalNodeOperations: Alpha off free needs DynamicResourceAllocation NodeDeclaredFeatures;
    DRAPartitionableDevices: Beta on free needs DynamicResourceAllocation;
    DRAPartitionableDevicesType: Alpha off free needs DRAPartitionableDevices DRAResourcePoolStatus DynamicResourceAllocation;
    DRAPrioritizedList: Stable on locked needs DynamicResourceAllocation;
    DRAResourceClaimDeviceStatus: Stable on locked;
    DRAResourceClaimGranularStatusAuthorization: Beta on free needs DRAResourceClaimDeviceStatus DynamicResourceAllocation;
    DRAResourcePoolStatus: Alpha off free needs DynamicResourceAllocation;
    DRASchedulerFilterTimeout: Beta on free needs DynamicResourceAllocation;
    DRAWorkloadResourceClaims: Beta off free needs DynamicResourceAllocation GenericWorkload;
    DeclarativeValidation: Stable on locked;
    DeclarativeValidationBeta: Beta on free needs DeclarativeValidation;
    DeclarativeValidationTakeover: Deprecated off locked needs DeclarativeValidation;
    DefaultPodSysctls: Alpha off free;
    DeploymentReplicaSetTerminatingReplicas: Beta on free;
    DetectCacheInconsistency: Beta on free;
    DisableAllocatorDualWrite: Stable on locked needs MultiCIDRServiceAllocator;
    DisableCPUQuotaWithExclusiveCPUs: Deprecated on locked;
    DisableNodeKubeProxyVersion: Deprecated on locked;
    DynamicResourceAllocation: Stable on locked;
    EmptyDirVolumeMode: Alpha off free;
    EnvFiles: Beta on free;
    EtcdRangeStream: Beta on free;
    EventedPLEG: Alpha off free needs PLEGOnDemandRelist;
    EvictionRequestAPI: Alpha off free;
    ExcludeAdmissionWebhookVirtualResources: Beta on free;
    ExecProbeTimeout: Stable on locked;
    ExtendWebSocketsToKubelet: Beta on free needs NodeDeclaredFeatures;
    ExternalServiceAccountTokenSigner: Stable on locked;
    GRPCContainerProbeTLS: Alpha off free;
    GenericWorkload: Beta off free;
    GitRepoVolumeDriver: Deprecated off locked;
    GracefulNodeShutdown: Beta on free;
    GracefulNodeShutdownBasedOnPodPriority: Beta on free needs GracefulNodeShutdown;
    H2CContainerProbe: Alpha off free needs NodeDeclaredFeatures;
    HPAConfigurableTolerance: Stable on locked;
    HPAGeneration: Beta on free;
    HPAOptimizedSelectorStore: Beta on free;
    HPAScaleToZero: Beta on free;
    HostnameOverride: Stable on locked;
    HugepageAwareEviction: Beta on free;
    ImageMaximumGCAge: Stable on locked;
    ImageVolume: Stable on locked;
    ImageVolumeWithDigest: Alpha off free needs ImageVolume;
    InOrderInformers: Stable on locked;
    InOrderInformersBatchProcess: Beta on free;
    InPlacePodLevelResourcesVerticalScaling: Beta on free needs InPlacePodVerticalScaling NodeDeclaredFeatures PodLevelResources;
    InPlacePodVerticalScaling: Stable on locked;
    InPlacePodVerticalScalingExclusiveCPUs: Alpha off free needs InPlacePodVerticalScaling;
    InPlacePodVerticalScalingExclusiveMemory: Alpha off free needs InPlacePodVerticalScaling;
    InPlacePodVerticalScalingInitContainers: Stable on locked needs InPlacePodVerticalScaling NodeDeclaredFeatures;
    InPlacePodVerticalScalingMemoryBackedVolumes: Alpha off free needs InPlacePodVerticalScaling NodeDeclaredFeatures;
    InPlacePodVerticalScalingSchedulerPreemption: Alpha off free needs InPlacePodVerticalScaling;
    InformerResourceVersion: Stable on free;
    InterPodAffinityHostnameFastPath: Alpha off free;
    JobManagedBy: Stable on locked;
    KMSv1: Deprecated off free;
    KubeProxyIPVS: Deprecated on free;
    KubeProxyNFTablesLocalhostNodePorts: Alpha off free;
    KubeletAllocatedPodsEndpoint: Alpha off free needs InPlacePodVerticalScaling;
    KubeletCgroupDriverFromCRI: Stable on locked;
    KubeletCrashLoopBackOffMax: Beta on free;
    KubeletEnsureSecretPulledImages: Beta on free;
    KubeletFineGrainedAuthz: Stable on locked;
    KubeletInUserNamespace: Beta on free;
    KubeletPSI: Stable on locked;
    KubeletPodResourcesDynamicResources: Stable on locked;
    KubeletPodResourcesGet: Stable on locked;
    KubeletPodResourcesListUseActivePods: Deprecated on free;
    KubeletRegistrationGetOnExistsOnly: Deprecated off free;
    KubeletSeparateDiskGC: Beta on free;
    KubeletServiceAccountTokenForCredentialProviders: Beta on free;
    KubeletTracing: Stable on locked;
    ListFromCacheSnapshot: Beta on free;
    LocalStorageCapacityIsolationFSQuotaMonitoring: Beta off free;
    LoggingAlphaOptions: Alpha off free;
    LoggingBetaOptions: Beta on free;
    ManifestBasedAdmissionControlConfig: Beta on free;
    MatchLabelKeysInPodAffinity: Stable on locked;
    MatchLabelKeysInPodTopologySpread: Beta on free;
    MatchLabelKeysInPodTopologySpreadSelectorMerge: Beta on free needs MatchLabelKeysInPodTopologySpread;
    MaxUnavailableStatefulSet: Beta on free;
    MemoryQoS: Beta on free;
    MultiCIDRServiceAllocator: Stable on locked;
    MutableCSINodeAllocatableCount: Stable on locked;
    MutablePVNodeAffinity: Alpha off free;
    MutablePodResourcesForSuspendedJobs: Beta on free;
    MutableSchedulingDirectivesForSuspendedJobs: Beta on free;
    MutatingAdmissionPolicy: Stable on free;
    NFTablesNetlink: Beta on free;
    NFTablesProxyMode: Stable on locked;
    NativeHistograms: Beta on free;
    NodeControllerLeaseCircuitBreaker: Beta on free needs AtomicFIFO;
    NodeDeclaredFeatures: Stable on locked;
    NodeInclusionPolicyInPodTopologySpread: Stable on locked;
    NodeLifecycleConditions: Alpha off free;
    NodeLogQuery: Stable on locked;
    NodeSwap: Stable on locked;
    NominatedNodeNameForExpectation: Beta on free;
    OpenAPIEnums: Beta on free;
    OpportunisticBatching: Beta on free;
    PLEGOnDemandRelist: Stable on locked;
    PersistentVolumeClaimUnusedSinceTime: Beta on free;
    PodAndContainerStatsFromCRI: Beta off free;
    PodCertificateRequest: Stable on free;
    PodDeletionCost: Beta on free;
    PodGroupPreemptionPolicy: Alpha off free needs GenericWorkload;
    PodLevelResourceManagers: Beta off free needs PodLevelResources;
    PodLevelResources: Beta on free;
    PodLevelResourcesFixDefaulting: Beta on free needs PodLevelResources;
    PodLevelResourcesFixKubeletQOSClass: Beta on free needs PodLevelResources;
    PodLogsQuerySplitStreams: Alpha off free;
    PodObservedGenerationTracking: Stable on locked;
    PodReadyToStartContainersCondition: Stable on locked;
    PodSchedulingReadiness: Stable on locked;
    PodTopologyLabelsAdmission: Beta on free;
    PodsAPI: Beta on free;
    PortForwardWebsockets: Beta on free;
    PreferSameTrafficDistribution: Stable on locked;
    ProcMountType: Stable on locked needs UserNamespacesSupport;
    QOSReserved: Alpha off free;
    RecoverVolumeExpansionFailure: Stable on locked;
    RecursiveReadOnlyMounts: Stable on locked;
    ReduceDefaultCrashLoopBackOffDecay: Alpha off free;
    RelaxedEnvironmentVariableValidation: Stable on locked;
    RelaxedServiceNameValidation: Stable on locked;
    ReloadKubeletClientCAFile: Beta on free;
    ReloadKubeletServerCertificateFile: Beta on free;
    RemoteRequestHeaderUID: Beta on free;
    ResourceHealthStatus: Beta on free needs DynamicResourceAllocation;
    ResourceHealthStatusMessage: Beta on free needs ResourceHealthStatus;
    RestartAllContainersOnContainerExits: Beta on free needs ContainerRestartRules NodeDeclaredFeatures;
    RotateKubeletServerCertificate: Beta on free;
    RuntimeClassInImageCriApi: Alpha off free;
    SELinuxChangePolicy: Stable on locked;
    SELinuxMount: Stable on free;
    SELinuxMountReadWriteOncePod: Stable on locked;
    SchedulerAsyncAPICalls: Beta off free;
    SchedulerAsyncPreemption: Beta on free;
    SchedulerPopFromBackoffQ: Beta on free;
    SchedulerPreQueueingHints: Alpha off free;
    SeparateCacheWatchRPC: Deprecated off locked;
    SeparateTaintEvictionController: Stable on locked;
    ServiceAccountNodeAudienceRestriction: Beta on free;
    ServiceAccountTokenJTI: Stable on locked;
    ServiceAccountTokenNodeBinding: Stable on locked needs ServiceAccountTokenNodeBindingValidation;
    ServiceAccountTokenNodeBindingValidation: Stable on locked;
    ServiceAccountTokenPodNodeInfo: Stable on locked;
    ServiceCIDRStatusFieldWiping: Deprecated on free;
    ShardedListAndWatch: Alpha off free;
    SizeBasedListCostEstimate: Beta on free;
    StaleControllerConsistencyDaemonSet: Beta on free needs AtomicFIFO;
    StaleControllerConsistencyHPA: Beta on free needs AtomicFIFO;
    StaleControllerConsistencyJob: Beta on free needs AtomicFIFO;
    StaleControllerConsistencyReplicaSet: Beta on free needs AtomicFIFO;
    StaleControllerConsistencyStatefulSet: Beta on free needs AtomicFIFO;
    StatefulSetRecreateStrategy: Alpha off free;
    StatefulSetSemanticRevisionComparison: Beta on free;
    StorageCapacityScoring: Beta on free;
    StorageNamespaceIndex: Deprecated on free;
    StorageVersionAPI: Alpha off free needs APIServerIdentity;
    StorageVersionHash: Beta on free;
    StorageVersionMigrator: Stable on free;
    StrictIPCIDRValidation: Beta on free;
    StructuredAuthenticationConfigurationEgressSelector: Beta on free;
    StructuredAuthenticationConfigurationJWKSMetrics: Beta on free;
    SupplementalGroupsPolicy: Stable on locked;
    SystemdWatchdog: Stable on locked;
    TaintTolerationComparisonOperators: Alpha off free;
    TokenRequestServiceAccountUIDValidation: Beta on free;
    TopologyAwareWorkloadScheduling: Alpha off free needs GenericWorkload;
    TopologyManagerPolicyAlphaOptions: Alpha off free;
    TopologyManagerPolicyBetaOptions: Beta on free;
    TopologyManagerPolicyOptions: Stable on locked;
    TranslateStreamCloseWebsocketRequests: Beta on free;
    UnauthenticatedHTTP2DOSMitigation: Beta on free;
    UnknownVersionInteroperabilityProxy: Beta on free needs APIServerIdentity;
    UnlockWhileProcessingFIFO: Beta on free;
    UserNamespacesHostNetworkSupport: Alpha off free needs NodeDeclaredFeatures UserNamespacesSupport;
    UserNamespacesSupport: Stable on locked;
    VolumeAttributesClass: Stable on locked;
    VolumeBindMountOptions: Alpha off free;
    VolumeLimitScaling: Beta on free;
    WatchCacheInitializationPostStartHook: Stable on locked;
    WatchList: Beta on free;
    WatchListClient: Beta on free;
    WatchListCompression: Beta on free;
    WebhookRoundTripLoadBalancing: Beta on free;
    WinDSR: Stable on locked;
    WinOverlay: Stable on locked;
    WindowsCPUAndMemoryAffinity: Alpha off free;
    WindowsGracefulNodeShutdown: Beta on free needs GracefulNodeShutdown;
    WindowsHostNetwork: Deprecated off free;
    WorkloadWithJob: Alpha off free needs GenericWorkload;
}
