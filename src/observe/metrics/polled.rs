//! The families whose figures others keep: their names, and what there is to say of them.

/// Families whose figures others may keep: see [`Metrics::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// `portcullis_connections{listener}`
    Connections,
    /// `portcullis_connections_refused_total{reason}`
    ConnectionsRefused,
    /// `portcullis_connections_closed_total{reason}`
    ConnectionsClosed,
    /// `portcullis_upstream_healthy{upstream,server}`: 1 or 0
    UpstreamHealthy,
    /// `portcullis_retries_total{upstream,reason}`
    Retries,
    /// `portcullis_certificate_not_after_seconds{listener,name}`: seconds since 1970
    CertificateNotAfter,
    /// `portcullis_answer_bytes_waiting`
    AnswerBytesWaiting,
    /// `portcullis_requests_held`
    RequestsHeld,
    /// `portcullis_api_keys`
    ApiKeys,
    /// `portcullis_api_key_bytes`
    ApiKeyBytes,
    /// `portcullis_api_keys_stale`: 1 or 0
    ApiKeysStale,
    /// `portcullis_issuer_fetches_total{policy,result}`
    IssuerFetches,
    /// `portcullis_issuer_keys{policy}`
    IssuerKeys,
    /// `portcullis_issuer_keys_left_out{policy}`
    IssuerKeysLeftOut,
    /// `portcullis_issuer_keys_age_seconds{policy}`
    IssuerKeysAge,
    /// `portcullis_revoked_list_age_seconds{policy}`
    RevokedListAge,
    /// `portcullis_introspections_total{policy,result}`
    Introspections,
    /// `portcullis_identity_tokens_total{result}`
    IdentityTokens,
    /// `portcullis_identity_keys`
    IdentityKeys,
    /// `portcullis_rate_limit_entries{policy}`
    RateLimitEntries,
    /// `portcullis_rate_limit_capacity{policy}`
    RateLimitCapacity,
    /// `portcullis_rate_limit_promotions_total{policy}`
    RateLimitPromotions,
    /// `portcullis_rate_limit_evictions_total{policy}`
    RateLimitEvictions,
    /// `portcullis_rate_limit_overflows_total{policy}`
    RateLimitOverflows,
    /// `portcullis_rate_limit_estimate_error_tokens{policy}`
    RateLimitError,
    /// `portcullis_rate_limit_under_way{policy}`
    RateLimitUnderWay,
    /// `portcullis_rate_limit_cooled_off{policy}`
    RateLimitCooledOff,
    /// `portcullis_rate_limit_penalties_total{policy}`
    RateLimitPenalties,
    /// `portcullis_rate_limit_penalties_missed_total{policy}`
    RateLimitPenaltiesMissed,
    /// `portcullis_quota_keys`
    QuotaKeys,
    /// `portcullis_quota_unwritten`
    QuotaUnwritten,
    /// `portcullis_quota_store_lost`: 1 or 0
    QuotaStoreLost,
    /// `portcullis_fleet_nodes`
    FleetNodes,
    /// `portcullis_fleet_store`: 0, 1 or 2
    FleetStore,
    /// `portcullis_fleet_store_losses_total`
    FleetStoreLosses,
    /// `portcullis_fleet_store_answers_total{result}`
    FleetStoreAnswers,
    /// `portcullis_fleet_store_round_seconds`
    FleetStoreRound,
    /// `portcullis_fleet_keys{policy}`
    FleetKeys,
    /// `portcullis_fleet_leased_tokens{policy}`
    FleetLeased,
    /// `portcullis_fleet_questions_total{policy}`
    FleetQuestions,
    /// `portcullis_fleet_alone_total{policy,reason}`
    FleetAlone,
}

/// A figure that somebody else keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Of which family.
    pub family: Polled,
    /// Values of its labels, in the family's order.
    pub labels: Vec<String>,
    /// The figure.
    pub value: f64,
}

/// A family: its name, its help, and its labels' names.
pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) labels: &'static [&'static str],
}

impl Polled {
    pub(super) fn definition(self) -> Definition {
        match self {
            Self::Connections => Definition {
                name: "portcullis_connections",
                help: "Open client connections.",
                labels: &["listener"],
            },
            Self::ConnectionsRefused => Definition {
                name: "portcullis_connections_refused_total",
                help: "Client connections closed before their first request.",
                labels: &["reason"],
            },
            Self::ConnectionsClosed => Definition {
                name: "portcullis_connections_closed_total",
                help: "Client connections that had been idle, or had brought requests, for as long as they may.",
                labels: &["reason"],
            },
            Self::UpstreamHealthy => Definition {
                name: "portcullis_upstream_healthy",
                help: "Whether a server of an upstream is healthy (1) or not (0).",
                labels: &["upstream", "server"],
            },
            Self::Retries => Definition {
                name: "portcullis_retries_total",
                help: "Attempts made again at an upstream.",
                labels: &["upstream", "reason"],
            },
            Self::CertificateNotAfter => Definition {
                name: "portcullis_certificate_not_after_seconds",
                help: "When a certificate expires, in seconds since 1970.",
                labels: &["listener", "name"],
            },
            Self::ApiKeys => Definition {
                name: "portcullis_api_keys",
                help: "API keys in memory, old, expired and revoked ones too.",
                labels: &[],
            },
            Self::ApiKeyBytes => Definition {
                name: "portcullis_api_key_bytes",
                help: "Bytes of memory that API keys take.",
                labels: &[],
            },
            Self::AnswerBytesWaiting => Definition {
                name: "portcullis_answer_bytes_waiting",
                help: "Bytes of answers that were read in pieces above 4 KiB and wait for clients to take them.",
                labels: &[],
            },
            Self::RequestsHeld => Definition {
                name: "portcullis_requests_held",
                help: "Requests that `server.limits.requests_in_flight` counts: on their way, or over HTTP/2 until the client has taken the answer.",
                labels: &[],
            },
            Self::ApiKeysStale => Definition {
                name: "portcullis_api_keys_stale",
                help: "Whether the store of API keys cannot be read (1), so that those known before are served.",
                labels: &[],
            },
            Self::IssuerFetches => Definition {
                name: "portcullis_issuer_fetches_total",
                help: "Fetches of an issuer's keys, by how they ended.",
                labels: &["policy", "result"],
            },
            Self::IssuerKeys => Definition {
                name: "portcullis_issuer_keys",
                help: "Keys of an issuer that verify tokens; 0 when none are known.",
                labels: &["policy"],
            },
            Self::IssuerKeysLeftOut => Definition {
                name: "portcullis_issuer_keys_left_out",
                help: "Keys of an issuer that are not used, since something is wrong with them.",
                labels: &["policy"],
            },
            Self::IssuerKeysAge => Definition {
                name: "portcullis_issuer_keys_age_seconds",
                help: "Time since an issuer's keys were last known to be its keys.",
                labels: &["policy"],
            },
            Self::RevokedListAge => Definition {
                name: "portcullis_revoked_list_age_seconds",
                help: "Time since a list of revoked tokens was fetched.",
                labels: &["policy"],
            },
            Self::Introspections => Definition {
                name: "portcullis_introspections_total",
                help: "Questions to an introspection server, by how they ended.",
                labels: &["policy", "result"],
            },
            Self::IdentityTokens => Definition {
                name: "portcullis_identity_tokens_total",
                help: "Requests whose identity was to be forwarded: with a token newly signed, one used again, or none (refused).",
                labels: &["result"],
            },
            Self::IdentityKeys => Definition {
                name: "portcullis_identity_keys",
                help: "Keys that are published for those who verify identity tokens.",
                labels: &[],
            },
            Self::RateLimitEntries => Definition {
                name: "portcullis_rate_limit_entries",
                help: "Keys of a limit below a full bucket: counted where its memory is 8 MiB or less, estimated above.",
                labels: &["policy"],
            },
            Self::RateLimitCapacity => Definition {
                name: "portcullis_rate_limit_capacity",
                help: "Keys of a limit that there is room for.",
                labels: &["policy"],
            },
            Self::RateLimitPromotions => Definition {
                name: "portcullis_rate_limit_promotions_total",
                help: "Keys of a limit that got a bucket though there was no room, since they had spent an eighth of a burst.",
                labels: &["policy"],
            },
            Self::RateLimitEvictions => Definition {
                name: "portcullis_rate_limit_evictions_total",
                help: "Buckets of a limit that were forgotten to make room before they were full again.",
                labels: &["policy"],
            },
            Self::RateLimitOverflows => Definition {
                name: "portcullis_rate_limit_overflows_total",
                help: "Requests that a limit let pass by estimate, since there was no room for their key.",
                labels: &["policy"],
            },
            Self::RateLimitError => Definition {
                name: "portcullis_rate_limit_estimate_error_tokens",
                help: "By how many tokens a limit's estimates were last found too high.",
                labels: &["policy"],
            },
            Self::RateLimitUnderWay => Definition {
                name: "portcullis_rate_limit_under_way",
                help: "Requests under way that a limit on how many at once counts.",
                labels: &["policy"],
            },
            Self::RateLimitCooledOff => Definition {
                name: "portcullis_rate_limit_cooled_off",
                help: "Keys that a limit with a penalty has cooled off for now.",
                labels: &["policy"],
            },
            Self::RateLimitPenalties => Definition {
                name: "portcullis_rate_limit_penalties_total",
                help: "Times that a key of a limit was cooled off.",
                labels: &["policy"],
            },
            Self::RateLimitPenaltiesMissed => Definition {
                name: "portcullis_rate_limit_penalties_missed_total",
                help: "Refused requests of a limit with a penalty that there was no room to remember.",
                labels: &["policy"],
            },
            Self::QuotaKeys => Definition {
                name: "portcullis_quota_keys",
                help: "API keys whose quotas are counted in memory.",
                labels: &[],
            },
            Self::QuotaUnwritten => Definition {
                name: "portcullis_quota_unwritten",
                help: "Requests that are counted for quotas and not written yet: what a power cut would cost.",
                labels: &[],
            },
            Self::QuotaStoreLost => Definition {
                name: "portcullis_quota_store_lost",
                help: "Whether the store of quotas cannot be written (1).",
                labels: &[],
            },
            Self::FleetNodes => Definition {
                name: "portcullis_fleet_nodes",
                help: "Nodes of the fleet, as its store last counted them.",
                labels: &[],
            },
            Self::FleetStore => Definition {
                name: "portcullis_fleet_store",
                help: "Whether the fleet's store answers (2), does so late (1), or is lost (0).",
                labels: &[],
            },
            Self::FleetStoreLosses => Definition {
                name: "portcullis_fleet_store_losses_total",
                help: "How often the fleet's store was lost.",
                labels: &[],
            },
            Self::FleetStoreAnswers => Definition {
                name: "portcullis_fleet_store_answers_total",
                help: "Questions for the fleet's store that were answered, or were not.",
                labels: &["result"],
            },
            Self::FleetStoreRound => Definition {
                name: "portcullis_fleet_store_round_seconds",
                help: "How long the fleet's store last took to answer.",
                labels: &[],
            },
            Self::FleetKeys => Definition {
                name: "portcullis_fleet_keys",
                help: "Keys of a limit of the fleet's of which this node knows something.",
                labels: &["policy"],
            },
            Self::FleetLeased => Definition {
                name: "portcullis_fleet_leased_tokens",
                help: "Tokens that this node has leased and not spent.",
                labels: &["policy"],
            },
            Self::FleetQuestions => Definition {
                name: "portcullis_fleet_questions_total",
                help: "How often the fleet's store was asked about a key.",
                labels: &["policy"],
            },
            Self::FleetAlone => Definition {
                name: "portcullis_fleet_alone_total",
                help: "Decisions that this node made by its share: it waited for the store in vain (late), had no room for the key (room), or did not ask (store).",
                labels: &["policy", "reason"],
            },
        }
    }
}
