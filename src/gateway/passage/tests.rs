//! Tables of the way through a gateway.
