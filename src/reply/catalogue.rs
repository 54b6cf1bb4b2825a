//! The catalogue: every kind of answer of our own, its statuses, and the words a client may read.

use http::StatusCode;

macro_rules! catalogue {
    ($($kind:ident = $name:literal, $status:ident, grpc $grpc:literal, $title:literal, $detail:literal;)*) => {
        /// Why the gateway answers itself. The names are those of `replies` and of the log's `responseType`; each kind's title is
        /// its documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = concat!("`", $name, "`: ", $title)] $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The kind's name: `ACCESS_DENIED`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Its status, unless `replies` says otherwise.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)* }
            }

            /// Its status for clients that speak gRPC (`grpc-status`).
            pub fn grpc_status(self) -> u8 {
                match self { $(Self::$kind => $grpc,)* }
            }

            /// `title` of the problem document (RFC 9457 §3.1.3): the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }

            /// The sentence a client may read. It names nothing of ours: the log's message does.
            pub fn detail(self) -> &'static str {
                match self { $(Self::$kind => $detail,)* }
            }
        }
    };
}

// gRPC: 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED, 12 UNIMPLEMENTED, 13 INTERNAL,
// 14 UNAVAILABLE, 16 UNAUTHENTICATED.
catalogue! {
    AmbiguousRequest = "AMBIGUOUS_REQUEST", BAD_REQUEST, grpc 3,
        "Ambiguous request", "The request is malformed, or could be read in more than one way.";
    BadRequestBody = "BAD_REQUEST_BODY", BAD_REQUEST, grpc 3,
        "Bad request body", "The request's body is not what this resource accepts.";
    BadRequestParameters = "BAD_REQUEST_PARAMETERS", BAD_REQUEST, grpc 3,
        "Bad request parameters", "The request's parameters are not what this resource accepts.";
    Unauthorized = "UNAUTHORIZED", UNAUTHORIZED, grpc 16,
        "Unauthorized", "The credentials are not valid.";
    MissingAuthenticationToken = "MISSING_AUTHENTICATION_TOKEN", UNAUTHORIZED, grpc 16,
        "Credentials missing", "The request bears no credentials.";
    ExpiredToken = "EXPIRED_TOKEN", UNAUTHORIZED, grpc 16,
        "Token expired", "The token has expired.";
    InvalidApiKey = "INVALID_API_KEY", UNAUTHORIZED, grpc 16,
        "Invalid API key", "The API key is not valid.";
    InvalidSignature = "INVALID_SIGNATURE", UNAUTHORIZED, grpc 16,
        "Invalid signature", "The signature is not valid.";
    AccessDenied = "ACCESS_DENIED", FORBIDDEN, grpc 7,
        "Access denied", "Access to this resource is not allowed.";
    CorsRefused = "CORS_REFUSED", FORBIDDEN, grpc 7,
        "Cross-origin request refused", "This cross-origin request is not allowed.";
    WafFiltered = "WAF_FILTERED", FORBIDDEN, grpc 7,
        "Request filtered", "The request was refused by a security rule.";
    RouteNotFound = "ROUTE_NOT_FOUND", NOT_FOUND, grpc 12,
        "Not found", "Nothing is served at this address.";
    MethodNotAllowed = "METHOD_NOT_ALLOWED", METHOD_NOT_ALLOWED, grpc 12,
        "Method not allowed", "This resource does not take this method.";
    RequestTimeout = "REQUEST_TIMEOUT", REQUEST_TIMEOUT, grpc 4,
        "Request timeout", "The request took too long to arrive.";
    RequestTooLarge = "REQUEST_TOO_LARGE", PAYLOAD_TOO_LARGE, grpc 8,
        "Request too large", "The request's body is larger than this resource accepts.";
    UriTooLong = "URI_TOO_LONG", URI_TOO_LONG, grpc 3,
        "Address too long", "The request's target is longer than is accepted.";
    UnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE", UNSUPPORTED_MEDIA_TYPE, grpc 3,
        "Unsupported media type", "This resource does not take this content type.";
    ExpectationFailed = "EXPECTATION_FAILED", EXPECTATION_FAILED, grpc 3,
        "Expectation failed", "The request expects something that is not done here.";
    Misdirected = "MISDIRECTED", MISDIRECTED_REQUEST, grpc 14,
        "Misdirected request", "This connection cannot be used for this host.";
    Throttled = "THROTTLED", TOO_MANY_REQUESTS, grpc 8,
        "Too many requests", "Requests come faster than the limit allows.";
    QuotaExceeded = "QUOTA_EXCEEDED", TOO_MANY_REQUESTS, grpc 8,
        "Quota exceeded", "The quota of this period is used up.";
    AbnormalUsage = "ABNORMAL_USAGE", TOO_MANY_REQUESTS, grpc 8,
        "Abnormal usage", "Requests have come again and again before the time that they were told.";
    HeadersTooLarge = "HEADERS_TOO_LARGE", REQUEST_HEADER_FIELDS_TOO_LARGE, grpc 8,
        "Header fields too large", "The request's header fields are larger or more than is accepted.";
    ApiConfigurationError = "API_CONFIGURATION_ERROR", INTERNAL_SERVER_ERROR, grpc 13,
        "Configuration error", "The request could not be served as this resource is configured.";
    InternalError = "INTERNAL_ERROR", INTERNAL_SERVER_ERROR, grpc 13,
        "Internal error", "The request could not be served.";
    UnknownCoding = "UNKNOWN_CODING", NOT_IMPLEMENTED, grpc 12,
        "Unknown coding", "The request uses a coding that is not supported.";
    VersionNotSupported = "VERSION_NOT_SUPPORTED", HTTP_VERSION_NOT_SUPPORTED, grpc 12,
        "HTTP version not supported", "This version of HTTP is not spoken here.";
    IntegrationFailure = "INTEGRATION_FAILURE", BAD_GATEWAY, grpc 14,
        "Bad gateway", "The service behind this resource could not be reached, or its answer could not be used.";
    AuthorizerFailure = "AUTHORIZER_FAILURE", SERVICE_UNAVAILABLE, grpc 14,
        "Authorisation unavailable", "Credentials cannot be checked at the moment.";
    QuotaUnavailable = "QUOTA_UNAVAILABLE", SERVICE_UNAVAILABLE, grpc 14,
        "Quota unavailable", "The request cannot be counted against its quota at the moment.";
    NoHealthyServer = "NO_HEALTHY_SERVER", SERVICE_UNAVAILABLE, grpc 14,
        "Service unavailable", "The service behind this resource is not available at the moment.";
    Overloaded = "OVERLOADED", SERVICE_UNAVAILABLE, grpc 14,
        "Overloaded", "There are too many requests at the moment.";
    IntegrationTimeout = "INTEGRATION_TIMEOUT", GATEWAY_TIMEOUT, grpc 4,
        "Gateway timeout", "The service behind this resource did not answer in time.";
}

/// What stands behind all kinds of a class in `replies`.
pub(super) const DEFAULTS: [(&str, u16); 2] = [("DEFAULT_4XX", 4), ("DEFAULT_5XX", 5)];

/// AWS's names for kinds of ours.
const ALIASES: [(&str, Kind); 1] = [("RESOURCE_NOT_FOUND", Kind::RouteNotFound)];

impl Kind {
    /// By its name, or by AWS's name for it.
    pub fn by_name(name: &str) -> Option<Self> {
        let alias = || ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, kind)| *kind);
        Self::ALL.iter().copied().find(|kind| kind.name() == name).or_else(alias)
    }

    /// The last part of a problem document's `type`: `access-denied`.
    pub fn slug(self) -> String {
        self.name().to_ascii_lowercase().replace('_', "-")
    }

    /// Address and title of the problem type that limits are told by (draft-ietf-httpapi-ratelimit-headers-10).
    pub(super) fn registered(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Throttled | Self::QuotaExceeded => Some((
                "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "Request cannot be satisfied as assigned quota has been exceeded",
            )),
            Self::AbnormalUsage => Some((
                "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
                "Request not satisfied due to detection of abnormal request pattern",
            )),
            Self::Overloaded => Some((
                "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
                "Request cannot be satisfied due to temporary server capacity constraints",
            )),
            _ => None,
        }
    }

    /// After how many seconds it may be worth asking again, where that is known of the kind itself. A shortage passes within
    /// seconds; what the upstream's health says changes with its next checks.
    pub fn retry_after(self) -> Option<u16> {
        match self {
            Self::Overloaded => Some(1),
            Self::NoHealthyServer | Self::AuthorizerFailure | Self::QuotaUnavailable => Some(5),
            _ => None,
        }
    }

    /// The known name in `replies` that is most like this one.
    pub(super) fn nearest(name: &str) -> &'static str {
        let upper = name.to_ascii_uppercase().replace('-', "_");
        let names = Self::ALL.iter().map(|kind| kind.name());
        names
            .chain(ALIASES.iter().map(|(name, _)| *name))
            .chain(DEFAULTS.iter().map(|(name, _)| *name))
            .min_by_key(|known| strsim::damerau_levenshtein(&upper, known))
            .unwrap_or("DEFAULT_4XX")
    }
}
