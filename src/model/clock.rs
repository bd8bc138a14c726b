//! The one place that reads the wall clock. Everything that decides takes `now` as an argument instead.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Timestamp;

/// The wall clock's reading.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A timestamp as the API's `Time`, cut to whole seconds as the wire format holds no more.
pub fn api_time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// A runtime's nanoseconds since the epoch as a timestamp; none for 0, which CRI uses for "not yet".
pub fn from_nanoseconds(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}
