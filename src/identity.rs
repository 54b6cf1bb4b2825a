//! Who a request is from: the one thing policies hand on to each other.

/// Who a request is from, once authentication has said so. Until then every request is anonymous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The subject.
    pub id: Box<str>,
}
