//! Why there is no answer. A failure is a value: it is shared by all who wait, and cached.

/// An Extended DNS Error (RFC 8914): its INFO-CODE and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ede {
    /// The INFO-CODE.
    pub code: u16,
    /// EXTRA-TEXT, UTF-8, may be empty.
    pub text: String,
}

/// INFO-CODEs of RFC 8914 section 4 that pkbridge gives.
pub mod ede {
    /// 4.1: what fits no other code.
    pub const OTHER: u16 = 0;
    /// 4.2: all DNSKEYs have algorithms that are not known here.
    pub const UNSUPPORTED_DNSKEY_ALGORITHM: u16 = 1;
    /// 4.3: all DS have digests that are not known here.
    pub const UNSUPPORTED_DS_DIGEST: u16 = 2;
    /// 4.7: the answer failed validation.
    pub const DNSSEC_BOGUS: u16 = 6;
    /// 4.8: it failed because its signatures have expired.
    pub const SIGNATURE_EXPIRED: u16 = 7;
    /// 4.9: it failed because its signatures are not valid yet.
    pub const SIGNATURE_NOT_YET_VALID: u16 = 8;
    /// 4.10: no DNSKEY matches the DS or the signature.
    pub const DNSKEY_MISSING: u16 = 9;
    /// 4.11: signatures should be there, and are not.
    pub const RRSIGS_MISSING: u16 = 10;
    /// 4.13: a proof of absence should be there, and is not.
    pub const NSEC_MISSING: u16 = 12;
    /// RFC 9276 section 4: more NSEC3 iterations than are computed here.
    pub const UNSUPPORTED_NSEC3_ITERATIONS: u16 = 27;
    /// 4.4: an answer past its TTL, because the refresh failed.
    pub const STALE_ANSWER: u16 = 3;
    /// 4.20: NXDOMAIN past its TTL, because the refresh failed.
    pub const STALE_NXDOMAIN_ANSWER: u16 = 19;
    /// In the registry since 2023: made from other records than the ones asked for.
    pub const SYNTHESIZED: u16 = 29;
    /// 4.15: not ready to answer yet.
    pub const NOT_READY: u16 = 14;
    /// 4.16: the operator's policy keeps the resolver from asking.
    pub const BLOCKED: u16 = 15;
    /// 4.18: the operator's policy takes something out of the answer.
    pub const FILTERED: u16 = 17;
    /// 4.19: this client may not ask.
    pub const PROHIBITED: u16 = 18;
    /// 4.21: an operation or query that is not supported.
    pub const NOT_SUPPORTED: u16 = 21;
    /// 4.23: nobody who could know answered.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// 4.24: an error on the way to who could know.
    pub const NETWORK_ERROR: u16 = 23;
    /// 4.25: the data that was found cannot be used.
    pub const INVALID_DATA: u16 = 24;
}

impl Ede {
    /// An INFO-CODE and its text.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }
}

/// Why a question has no answer. All of these are SERVFAIL to a server's client.
// What the DHT does not give is hidden: other programs never see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing to forward to.
    #[doc(hidden)]
    #[error("no upstream resolver is configured")]
    NoUpstream,
    /// No upstream gave a usable answer in time.
    #[doc(hidden)]
    #[error("no upstream resolver answered: {0}")]
    Upstream(String),
    /// Every upstream, or the network on the way to it, said no, or gave what is no answer.
    #[doc(hidden)]
    #[error("no upstream resolver answered: {0}")]
    UpstreamError(String),
    /// The upstreams send questions back to us.
    #[doc(hidden)]
    #[error("a forwarding loop: the upstream resolver forwards to pkbridge")]
    Loop,
    /// The DHT node has found no other nodes yet.
    #[error("the DHT is not joined yet")]
    DhtNotReady,
    /// The lookup ended without enough answers to say that nobody has the key.
    #[error("too few DHT nodes answered to tell whether the key is published")]
    DhtPoorMiss,
    /// The lookup did not end.
    #[error("the DHT node failed: {0}")]
    Dht(String),
    /// The newest item of the key is signed and is no packet.
    #[doc(hidden)]
    #[error("the newest packet of the key cannot be used: {0}")]
    InvalidPacket(String),
    /// What the network has of the key is older than what was seen before.
    #[doc(hidden)]
    #[error("only packets older than seq {0}, which was seen before, were found")]
    OnlyOlderPackets(u64),
    /// The client has made too many lookups that found nothing.
    #[doc(hidden)]
    #[error("too many unpublished keys asked for from this address; ask again in {0} s")]
    OverBudget(u64),
    /// The name is delegated to name servers of its own.
    #[doc(hidden)]
    #[error("the name is delegated at {0}, and delegations are not followed")]
    Delegated(String),
    /// The name servers that a packet delegates to, or those that they delegate to, did not answer.
    #[doc(hidden)]
    #[error("no name server of {cut} gave an answer: {reason}")]
    NameServers {
        /// The zone that they were asked as authorities of.
        cut: String,
        /// What went wrong.
        reason: String,
    },
    /// A packet must not make the resolver ask around in the network that it stands in.
    #[doc(hidden)]
    #[error("the name servers of {0} are at private addresses, which are not asked")]
    PrivateNameServers(String),
    /// DNSSEC validation says that the answer is not what its zone has signed.
    #[doc(hidden)]
    #[error("{reason}")]
    Bogus {
        /// The INFO-CODE that says why.
        code: u16,
        /// What is wrong with which name.
        reason: String,
    },
    /// What it takes to validate the answer could not be had.
    #[doc(hidden)]
    #[error("the keys of {zone} cannot be had: {reason}")]
    NoKeys {
        /// The zone.
        zone: String,
        /// What went wrong.
        reason: String,
    },
    /// A loop, or more aliases than the limit.
    #[doc(hidden)]
    #[error("the chain of aliases is a loop or too long")]
    AliasChain,
    /// The composed answer is no message.
    #[doc(hidden)]
    #[error("the answer does not fit a DNS message")]
    Unwritable,
    /// More lookups under way than the limit.
    #[error("too many lookups under way")]
    Overloaded,
    /// The client has waited as long as clients do; the lookup goes on.
    #[doc(hidden)]
    #[error("still looking; ask again")]
    Patience,
    /// The lookup's task ended without a result.
    #[doc(hidden)]
    #[error("the lookup failed inside")]
    Internal,
}

impl Failure {
    /// The Extended DNS Error that tells the client why.
    #[doc(hidden)]
    pub fn ede(&self) -> Ede {
        let code = match self {
            Self::NoUpstream
            | Self::Upstream(_)
            | Self::Loop
            | Self::DhtPoorMiss
            | Self::NameServers { .. }
            | Self::NoKeys { .. }
            | Self::Patience => ede::NO_REACHABLE_AUTHORITY,
            Self::Bogus { code, .. } => *code,
            Self::PrivateNameServers(_) => ede::BLOCKED,
            Self::DhtNotReady | Self::Overloaded => ede::NOT_READY,
            Self::Dht(_) | Self::UpstreamError(_) => ede::NETWORK_ERROR,
            Self::InvalidPacket(_) | Self::OnlyOlderPackets(_) => ede::INVALID_DATA,
            Self::Delegated(_) => ede::NOT_SUPPORTED,
            Self::OverBudget(_) | Self::AliasChain | Self::Unwritable | Self::Internal => {
                ede::OTHER
            }
        };
        Ede::new(code, self.to_string())
    }

    /// Whether it says that a key's packet cannot be had.
    pub(crate) fn is_of_packet(&self) -> bool {
        matches!(
            self,
            Self::DhtPoorMiss | Self::Dht(_) | Self::InvalidPacket(_) | Self::OnlyOlderPackets(_)
        )
    }

    /// Whether it may be remembered (RFC 9520). Passing states of pkbridge itself are not.
    #[doc(hidden)]
    pub fn is_cacheable(&self) -> bool {
        !matches!(
            self,
            Self::NoUpstream
                | Self::DhtNotReady
                | Self::Overloaded
                | Self::OverBudget(_)
                | Self::Patience
                | Self::Internal
        )
    }
}
