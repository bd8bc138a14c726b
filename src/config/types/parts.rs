//! The structures inside of KubeletConfiguration.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::is_zero;
use crate::model::go_duration::GoDuration;
use crate::model::quantity;

/// How callers of the HTTPS server are identified.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeletAuthentication {
    /// By client certificate.
    pub x509: KubeletX509Authentication,
    /// By token, asked of the API.
    pub webhook: KubeletWebhookAuthentication,
    /// Not at all.
    pub anonymous: KubeletAnonymousAuthentication,
}

/// Client certificates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeletX509Authentication {
    /// File of the authorities that sign client certificates; empty for none.
    #[serde(rename = "clientCAFile", skip_serializing_if = "is_zero")]
    pub client_ca_file: String,
}

/// Tokens checked by TokenReview.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeletWebhookAuthentication {
    /// Whether tokens are taken. Default true.
    pub enabled: bool,
    /// Time for which an answer is kept. Default 2m.
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: GoDuration,
}

impl Default for KubeletWebhookAuthentication {
    fn default() -> Self {
        KubeletWebhookAuthentication { enabled: true, cache_ttl: GoDuration::from_mins(2) }
    }
}

/// Requests without credentials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeletAnonymousAuthentication {
    /// Whether they are taken, as `system:anonymous` of `system:unauthenticated`.
    pub enabled: bool,
}

/// How callers of the HTTPS server are allowed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeletAuthorization {
    /// `Webhook` or `AlwaysAllow`. Default `Webhook`.
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: String,
    /// Settings of `Webhook`.
    pub webhook: KubeletWebhookAuthorization,
}

impl Default for KubeletAuthorization {
    fn default() -> Self {
        KubeletAuthorization { mode: "Webhook".to_owned(), webhook: KubeletWebhookAuthorization::default() }
    }
}

/// SubjectAccessReview.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeletWebhookAuthorization {
    /// Time for which a yes is kept. Default 5m.
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: GoDuration,
    /// Time for which a no is kept. Default 30s.
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: GoDuration,
}

impl Default for KubeletWebhookAuthorization {
    fn default() -> Self {
        KubeletWebhookAuthorization {
            cache_authorized_ttl: GoDuration::from_mins(5),
            cache_unauthorized_ttl: GoDuration::from_secs(30),
        }
    }
}

/// How pods use swap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemorySwapConfiguration {
    /// Empty, `NoSwap` or `LimitedSwap`; empty is `NoSwap`.
    #[serde(skip_serializing_if = "is_zero")]
    pub swap_behavior: String,
}

/// Back-off of crashing containers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOffConfig {
    /// Longest back-off. Default 5m; none if the feature gate `KubeletCrashLoopBackOffMax` is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_container_restart_period: Option<GoDuration>,
}

/// Grace period of the pods from a priority up to the next one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShutdownGracePeriodByPodPriority {
    /// Lowest priority it is for.
    pub priority: i32,
    /// Seconds.
    pub shutdown_grace_period_seconds: i64,
}

/// Memory kept on one NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryReservation {
    /// NUMA node.
    pub numa_node: i32,
    /// Amounts by memory type: `memory`, `hugepages-<size>`.
    #[serde(deserialize_with = "quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

/// OpenTelemetry traces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TracingConfiguration {
    /// Collector; none for localhost:4317.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Traces begun here, of a million.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_rate_per_million: Option<i32>,
}

/// User namespaces of pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNamespaces {
    /// Ids mapped for one pod, a multiple of 65536; none for 65536.
    #[serde(rename = "idsPerPod", skip_serializing_if = "Option::is_none")]
    pub ids_per_pod: Option<i64>,
}

/// Log format and verbosity (`LoggingConfiguration` of component-base).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggingConfiguration {
    /// `text` or `json`. Default `text`.
    #[serde(skip_serializing_if = "is_zero")]
    pub format: String,
    /// Longest time that messages are buffered for. Default 5s. In files also a number of nanoseconds.
    #[serde(deserialize_with = "duration_or_nanoseconds")]
    pub flush_frequency: GoDuration,
    /// The `-v` level.
    pub verbosity: u32,
    /// The `--vmodule` levels.
    #[serde(skip_serializing_if = "is_zero")]
    pub vmodule: Vec<VModuleItem>,
    /// Settings of the formats.
    pub options: FormatOptions,
}

impl Default for LoggingConfiguration {
    fn default() -> Self {
        LoggingConfiguration {
            format: "text".to_owned(),
            flush_frequency: GoDuration::from_secs(5),
            verbosity: 0,
            vmodule: Vec::new(),
            options: FormatOptions::default(),
        }
    }
}

/// Verbosity of the source files that match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VModuleItem {
    /// Glob over file names without `.go`.
    pub file_pattern: String,
    /// Level.
    pub verbosity: u32,
}

/// Settings of the log formats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FormatOptions {
    /// Of `text`.
    pub text: OutputRoutingOptions,
    /// Of `json`.
    pub json: OutputRoutingOptions,
}

/// Where a format writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutputRoutingOptions {
    /// Errors to stderr, the rest to stdout.
    #[serde(skip_serializing_if = "is_zero")]
    pub split_stream: bool,
    /// Bytes of messages that are buffered.
    #[serde(deserialize_with = "quantity_or_number")]
    pub info_buffer_size: Quantity,
}

impl Default for OutputRoutingOptions {
    fn default() -> Self {
        OutputRoutingOptions { split_stream: false, info_buffer_size: Quantity("0".to_owned()) }
    }
}

/// HTTP headers that may hold credentials: never shown by Debug.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHeaders(BTreeMap<String, Vec<String>>);

impl SecretHeaders {
    /// Header values by name.
    pub fn expose(&self) -> &BTreeMap<String, Vec<String>> {
        &self.0
    }

    pub(in crate::config) fn clear(&mut self) {
        self.0.clear();
    }

    pub(in crate::config) fn add(&mut self, name: &str, value: &str) {
        self.0.entry(name.to_owned()).or_default().push(value.to_owned());
    }

    /// The same names, each with a mask for its values.
    pub fn masked(&self) -> SecretHeaders {
        SecretHeaders(self.0.keys().map(|name| (name.clone(), vec!["<masked>".to_owned()])).collect())
    }
}

impl fmt::Debug for SecretHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, "<masked>"))).finish()
    }
}

/// A duration as text, or as a number of nanoseconds, which older files hold for `logging.flushFrequency`.
fn duration_or_nanoseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GoDuration, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = GoDuration;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration as text, like \"5s\", or a number of nanoseconds")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
            text.parse().map_err(E::custom)
        }
        fn visit_i64<E: de::Error>(self, nanoseconds: i64) -> Result<GoDuration, E> {
            Ok(GoDuration::from_nanos(nanoseconds))
        }
        fn visit_u64<E: de::Error>(self, nanoseconds: u64) -> Result<GoDuration, E> {
            i64::try_from(nanoseconds).map(GoDuration::from_nanos).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Visitor)
}

/// A quantity: text or a bare number, held to the grammar.
struct AnyQuantity(Quantity);

impl<'de> Deserialize<'de> for AnyQuantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = AnyQuantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity, like \"512Mi\" or 1000")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<AnyQuantity, E> {
                let (amount, format) = quantity::parse_with_format(text).map_err(E::custom)?;
                Ok(AnyQuantity(amount.quantity(format)))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<AnyQuantity, E> {
                Ok(AnyQuantity(quantity::decimal(number)))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<AnyQuantity, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<AnyQuantity, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn quantity_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Quantity, D::Error> {
    AnyQuantity::deserialize(deserializer).map(|any| any.0)
}

fn quantities<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Quantity>, D::Error> {
    let map = BTreeMap::<String, AnyQuantity>::deserialize(deserializer)?;
    Ok(map.into_iter().map(|(name, any)| (name, any.0)).collect())
}
