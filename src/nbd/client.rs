//! The client side of NBD.
