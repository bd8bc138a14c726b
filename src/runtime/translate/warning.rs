//! What a translation could not do as asked, without failing.

/// A warning event to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub target: WarningTarget,
    /// The event's reason.
    pub reason: &'static str,
    /// The event's message.
    pub message: String,
}

/// The object of a warning event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningTarget {
    /// The pod that is translated.
    Pod,
    /// This node.
    Node,
}
