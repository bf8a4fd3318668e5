//! Where a volume's bytes lie, scheme by scheme. Pure: address arithmetic and the choice of copies.

pub mod mirror;
pub mod stripe;
