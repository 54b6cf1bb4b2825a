//! Why there is no connection, in words for the log. The crate's errors may quote what a server has said: of them only a word is shown.

use std::fmt;

use ::redis::{ErrorKind, RedisError};

use super::config::Address;

/// Why there is no connection, or none any more, as the log says it. Nothing of it is the server's but the word of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a server's error begins with; none where it is no server's.
pub(super) fn word_of(error: &RedisError) -> Option<Box<str>> {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
        .then(|| word(error.code().unwrap_or_default()))
}

/// Capital letters, 24 at the most: what goes into our log.
pub(super) fn word(said: &str) -> Box<str> {
    let word: String = said.chars().take(24).take_while(char::is_ascii_uppercase).collect();
    if word.is_empty() { "ERR".into() } else { word.into() }
}

/// What the word of an error means.
pub(super) fn refused(name: &dyn fmt::Display, word: &str) -> String {
    let meaning = match word {
        "NOAUTH" => "it wants a password: write `server.fleet.password`",
        "NOPERM" => {
            "the user may not do what is needed: EVAL, EVALSHA, what the scripts do, and CLUSTER SLOTS"
        }
        "LOADING" => "it is loading its data",
        "READONLY" => "it is a replica, which takes nothing",
        "CLUSTERDOWN" => "the cluster is not whole",
        "MOVED" => "it is one of a cluster: write `server.fleet.cluster`",
        "OOM" => "it has no memory left",
        "MISCONF" => "it cannot write its data to its disk",
        _ => "it refuses what is asked",
    };
    format!("{name} says {word}: {meaning}")
}

/// Why a connection is of no use any more. Of several questions at once the crate does not say what it could not read.
pub(super) fn lost(name: &dyn fmt::Display, error: &RedisError) -> Broken {
    Broken(match error.kind() {
        ErrorKind::Parse => format!("{name} says what is not Redis's protocol"),
        _ => format!(
            "{name} has closed the connection, or the network has, or it says what is not Redis's protocol"
        ),
    })
}

/// Why a server does not let us in, to which there is a stream.
pub(super) fn unreachable(address: &Address, error: &RedisError) -> Broken {
    match (error.kind(), word_of(error)) {
        (ErrorKind::AuthenticationFailed, _) => {
            Broken(format!("{address} does not let us in: user or password are wrong"))
        }
        (_, Some(word)) => Broken(refused(address, &word)),
        (_, None) => lost(address, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_server_s_error_only_the_word_is_told() {
        for (said, told) in
            [("WRONGTYPE", "WRONGTYPE"), ("lower", "ERR"), ("", "ERR"), ("OOM\u{1b}[31m", "OOM")]
        {
            assert_eq!(&*word(said), told);
        }
        assert_eq!(word(&"A".repeat(99)).len(), 24);
    }
}
