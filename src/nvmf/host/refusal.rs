//! Why a controller cannot be used.

use super::failure::Failure;
use crate::nvmf::pdu::Fatal;

/// Why a controller, or a namespace of it, cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the server does not speak NVMe/TCP as it should: {0}")]
    Broken(&'static str),
    #[error("the server's first answer is wrong: {0}")]
    Answer(Fatal),
    #[error("the server ended the connection (status {status}, information {info})")]
    Terminated { status: u16, info: u32 },
    #[error("the server does not agree to the digests that are asked for")]
    Digests,
    #[error("the server wants data aligned to {0} bytes, which is not supported")]
    Alignment(u32),
    #[error("the server wants hosts to authenticate, which is not supported")]
    Authentication,
    #[error("{asked}: {failure}")]
    Command { asked: &'static str, failure: Failure },
    #[error("the controller has failed")]
    Fatal,
    #[error("the controller offers no namespaces: it is for discovery or administration")]
    NoNamespaces,
    #[error("the controller is not for discovery")]
    NotDiscovery,
    #[error("the discovery log changes faster than it can be read")]
    Restless,
    #[error("there is no namespace {0}")]
    NoNamespace(u32),
}
