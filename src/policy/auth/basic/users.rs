//! The users of a file: `name:hash` a line, with hashes that are slow on purpose and bounded in what they cost.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::config::{Build, Site, Spanned, unreadable};

/// The most that one hash may cost: a fourth of a second or so, and this much memory for each thread of the pool.
const ARGON2_KIB_MAX: u32 = 128 << 10;
/// Memory times passes: what is written in all.
const ARGON2_WORK_MAX: u64 = 512 << 10;
const ARGON2_LANES_MAX: u32 = 16;
/// 2^14 rounds take about a second.
const BCRYPT_COST_MAX: u32 = 14;
/// What bcrypt looks at.
const BCRYPT_MAX: usize = 72;
const NAME_BYTES_MAX: usize = 128;
/// Errors told of one file; a wrong file is wrong in every line.
const ERRORS_MAX: usize = 20;

const CURE: &str =
    "write `name:hash` with a hash of argon2id (`argon2 SALT -id -e`) or bcrypt (`htpasswd -B`)";

/// Users and their hashes.
pub(super) struct Users {
    users: Vec<(Arc<str>, Hash)>,
    by_name: HashMap<Arc<str>, usize>,
    /// Chooses whose hash is computed for a name that nobody has.
    stand_in: RandomState,
}

/// A password's hash, parsed.
pub(super) enum Hash {
    Argon2 { params: Params, salt: Box<[u8]>, output: Box<[u8]> },
    Bcrypt(Box<str>),
}

/// Whose hash is to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whose {
    at: usize,
    /// False: the name is nobody's, and the hash, of somebody, is computed for the time it takes.
    known: bool,
}

impl Users {
    /// Reads a file. None when `build.errors` says why.
    pub(super) fn read(file: &Spanned<String>, build: &mut Build) -> Option<(Self, Vec<u8>)> {
        let path = build.files.resolve(&file.site, file);
        let content = match build.files.read(&path) {
            Ok(content) => content,
            Err(error) => {
                let cause = format!("cannot read `{}`: {}", path.display(), unreadable(&error));
                build.errors.push(&file.site, &*file.path, cause, "name a file with a user a line");
                return None;
            }
        };
        let name: Arc<str> = path.display().to_string().into();
        let mut own = Self { users: Vec::new(), by_name: HashMap::new(), stand_in: RandomState::new() };
        let mut wrong = 0;
        for (line, number) in content.split(|byte| *byte == b'\n').zip(1..) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if let Err((cause, cure)) = own.add(line) {
                wrong += 1;
                if wrong <= ERRORS_MAX {
                    build.errors.push(&Site::new(Arc::clone(&name), number, 1), &*file.path, cause, cure);
                }
            }
        }
        if wrong > ERRORS_MAX {
            let cause = format!("`{name}` has {} more lines that are wrong", wrong - ERRORS_MAX);
            build.errors.push(&file.site, &*file.path, cause, CURE);
        } else if wrong == 0 && own.users.is_empty() {
            let cause = format!("`{name}` has no users, so nobody could pass");
            build.errors.push(&file.site, &*file.path, cause, CURE);
            wrong = 1;
        }
        (wrong == 0).then_some((own, content))
    }

    /// Takes a line in; a message must not show a hash.
    fn add(&mut self, line: &[u8]) -> Result<(), (String, &'static str)> {
        let text = std::str::from_utf8(line).map_err(|_| ("the line is not UTF-8".to_owned(), CURE))?;
        let (name, hash) = text
            .split_once(':')
            .ok_or_else(|| ("the line has no `:` between name and hash".to_owned(), CURE))?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let cause = format!("a name has 1 to {NAME_BYTES_MAX} bytes and no control characters");
            return Err((cause, CURE));
        }
        let hash = Hash::parse(hash).map_err(|(cause, cure)| (format!("`{name}`: {cause}"), cure))?;
        let name: Arc<str> = name.into();
        if self.by_name.insert(Arc::clone(&name), self.users.len()).is_some() {
            return Err((format!("`{name}` is there twice"), "remove one of the lines"));
        }
        self.users.push((name, hash));
        Ok(())
    }

    /// Whose hash is to be computed for this name: for one that is nobody's always the same user's, so that it takes as long as a
    /// user's would.
    pub(super) fn find(&self, name: &str) -> Whose {
        match self.by_name.get(name) {
            Some(at) => Whose { at: *at, known: true },
            None => {
                let number = self.stand_in.hash_one(name) % (self.users.len() as u64).max(1);
                Whose { at: usize::try_from(number).unwrap_or(0), known: false }
            }
        }
    }

    /// Whether this is the password, which takes long. Never of a name that is nobody's.
    pub(super) fn verify(&self, whose: Whose, password: &[u8]) -> bool {
        let right = self.users.get(whose.at).is_some_and(|(_, hash)| hash.verify(password));
        right && whose.known
    }
}

impl Whose {
    /// Whether there is such a user.
    pub(super) fn is_known(self) -> bool {
        self.known
    }
}

impl Hash {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        if let Some(rest) = text.strip_prefix("$argon2id$") {
            return Self::argon2id(rest);
        }
        if ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
            let parts: bcrypt::HashParts = text
                .parse()
                .map_err(|_| ("the bcrypt hash is malformed", "make it anew with `htpasswd -B`"))?;
            if !(4..=BCRYPT_COST_MAX).contains(&parts.get_cost()) {
                return Err((
                    "the cost of the bcrypt hash is not 4 to 14",
                    "make it with `htpasswd -B -C 12`",
                ));
            }
            return Ok(Self::Bcrypt(text.into()));
        }
        let cause = if text.starts_with("$apr1$") || text.starts_with("$1$") {
            "a hash of MD5 is guessed too fast"
        } else if text.starts_with("{SHA}") || text.starts_with("{SSHA}") {
            "a hash of SHA-1 is guessed too fast"
        } else if text.starts_with("$5$") || text.starts_with("$6$") {
            "hashes of crypt's SHA-2 are not known here"
        } else if text.starts_with("$argon2") {
            "of argon2, only argon2id is taken"
        } else {
            "this is no hash that is known here: a password in plain text, or crypt's"
        };
        Err((cause, CURE))
    }

    /// `v=19$m=19456,t=2,p=1$SALT$HASH` (the PHC string format).
    fn argon2id(rest: &str) -> Result<Self, (&'static str, &'static str)> {
        const MALFORMED: (&str, &str) =
            ("the argon2id hash is malformed", "write it as `$argon2id$v=19$m=…,t=…,p=…$SALT$HASH`");
        let fields: Vec<&str> = rest.split('$').collect();
        let [version, costs, salt, output] = *fields else { return Err(MALFORMED) };
        if version != "v=19" {
            return Err(("only version 19 of argon2 is taken", CURE));
        }
        let mut numbers = costs
            .split(',')
            .zip(["m=", "t=", "p="])
            .map(|(cost, name)| cost.strip_prefix(name).and_then(|number| number.parse::<u32>().ok()));
        let mut next = || numbers.next().flatten().ok_or(MALFORMED);
        let (memory, passes, lanes) = (next()?, next()?, next()?);
        if costs.split(',').count() != 3 {
            return Err(MALFORMED);
        }
        let work = u64::from(memory) * u64::from(passes);
        if memory > ARGON2_KIB_MAX || work > ARGON2_WORK_MAX || lanes > ARGON2_LANES_MAX {
            return Err((
                "the argon2id hash costs too much: m is at most 131072 (KiB), m × t at most 524288, p at most 16",
                "make it with `argon2 SALT -id -e -k 65536 -t 3 -p 1`",
            ));
        }
        let decode = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| MALFORMED);
        let (salt, output) = (decode(salt)?, decode(output)?);
        if !(8..=64).contains(&salt.len()) || !(16..=64).contains(&output.len()) {
            return Err(("salt or hash of argon2id are too short or too long", CURE));
        }
        let params = Params::new(memory, passes, lanes, Some(output.len())).map_err(|_| MALFORMED)?;
        Ok(Self::Argon2 { params, salt: salt.into(), output: output.into() })
    }

    fn verify(&self, password: &[u8]) -> bool {
        match self {
            // What is behind the 72nd byte would not be looked at.
            Self::Bcrypt(hash) => {
                password.len() <= BCRYPT_MAX && bcrypt::verify(password, hash).unwrap_or(false)
            }
            Self::Argon2 { params, salt, output } => {
                let mut computed = vec![0; output.len()];
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
                argon2.hash_password_into(password, salt, &mut computed).is_ok()
                    && verify_slices_are_equal(&computed, output).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `hunter2` with the least costs.
    fn argon2() -> String {
        let mut output = [0; 32];
        let params = Params::new(8, 1, 1, Some(32)).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into(b"hunter2", b"saltsalt", &mut output).unwrap();
        format!("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ${}", STANDARD_NO_PAD.encode(output))
    }

    fn read(content: &str) -> Result<Users, Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mut build = Build::default();
        let written = Spanned::unwritten(file.path().display().to_string());
        let read = Users::read(&written, &mut build).map(|(users, _)| users);
        assert!(build.files.watched().contains(file.path()));
        let told = |error: &crate::config::Diagnostic| {
            format!("{}: {}; {}", error.site.line, error.cause, error.cure)
        };
        read.ok_or_else(|| build.errors.errors().iter().map(told).collect())
    }

    #[test]
    fn what_bcrypt_does_not_look_at_is_not_passed_over() {
        let long = "a".repeat(BCRYPT_MAX);
        let users = read(&format!("bob:{}\n", bcrypt::hash(&long, 4).unwrap())).unwrap();
        let verify = |password: &str| users.verify(users.find("bob"), password.as_bytes());
        assert!(verify(&long));
        assert!(!verify(&format!("{long}a")) && !verify(&"a".repeat(BCRYPT_MAX - 1)));
    }

    #[test]
    fn users_are_known_by_their_passwords() {
        let bcrypt = bcrypt::hash("correct horse", 4).unwrap();
        let users = read(&format!("# staff\nalice:{}\r\n\n bob:{bcrypt}\n", argon2())).unwrap();
        for (name, password, expected) in [
            ("alice", "hunter2", true),
            ("alice", "hunter3", false),
            ("alice", "", false),
            ("bob", "correct horse", true),
            ("bob", "hunter2", false),
            ("Alice", "hunter2", false),
            ("mallory", "hunter2", false),
            ("mallory", "correct horse", false),
        ] {
            let whose = users.find(name);
            assert_eq!(users.verify(whose, password.as_bytes()), expected, "{name} {password}");
            assert_eq!(whose.is_known(), matches!(name, "alice" | "bob"));
        }
        assert_eq!(users.find("mallory"), users.find("mallory"), "always the same stand-in");
    }

    #[test]
    fn hashes_made_by_others_are_understood() {
        // crypt_blowfish's first vector, and one of the reference implementation of argon2.
        for (hash, password) in [
            ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U"),
            (
                "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
                "password",
            ),
        ] {
            let hash = Hash::parse(hash).ok().unwrap();
            assert!(hash.verify(password.as_bytes()), "{password}");
            assert!(!hash.verify(b"another"), "{password}");
        }
    }

    #[test]
    fn what_is_no_good_hash_is_refused_with_its_line() {
        let costs = |costs: &str| argon2().replace("m=8,t=1,p=1", costs);
        for (line, expected) in [
            ("alice".to_owned(), "2: the line has no `:`"),
            (":x".to_owned(), "2: a name has 1 to 128 bytes"),
            (format!("{}:x", "n".repeat(129)), "2: a name has 1 to 128 bytes"),
            ("alice:hunter2".to_owned(), "2: `alice`: this is no hash that is known here"),
            ("alice:".to_owned(), "2: `alice`: this is no hash"),
            (
                "alice:$apr1$x$y".to_owned(),
                "2: `alice`: a hash of MD5 is guessed too fast; write `name:hash`",
            ),
            ("alice:{SHA}x".to_owned(), "2: `alice`: a hash of SHA-1"),
            ("alice:$6$x$y".to_owned(), "2: `alice`: hashes of crypt's SHA-2 are not known here"),
            ("alice:$argon2i$v=19$m=8,t=1,p=1$a$b".to_owned(), "2: `alice`: of argon2, only argon2id"),
            (
                "alice:$2b$15$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234".to_owned(),
                "2: `alice`: the ",
            ),
            ("alice:$2b$12$short".to_owned(), "2: `alice`: the bcrypt hash is malformed"),
            (format!("alice:{}", costs("m=131073,t=1,p=1")), "2: `alice`: the argon2id hash costs too much"),
            (format!("alice:{}", costs("m=131072,t=5,p=1")), "2: `alice`: the argon2id hash costs too much"),
            (format!("alice:{}", costs("m=1024,t=1,p=17")), "2: `alice`: the argon2id hash costs too much"),
            (format!("alice:{}", costs("m=8,t=1")), "2: `alice`: the argon2id hash is malformed"),
            (format!("alice:{}", costs("m=8,t=1,p=1,k=1")), "2: `alice`: the argon2id hash is malformed"),
            (format!("alice:{}", argon2().replace("v=19", "v=16")), "2: `alice`: only version 19"),
            (format!("alice:{}", argon2().replace("c2FsdHNhbHQ", "c2E")), "2: `alice`: salt or hash"),
            (format!("alice:{0}\nalice:{0}", argon2()), "3: `alice` is there twice; remove"),
        ] {
            let told = read(&format!("# one line of comment\n{line}\n")).err().unwrap();
            assert!(told[0].starts_with(expected), "{line}: {told:?}");
            assert!(!told[0].contains("hunter2") && !told[0].contains("c2Fsd"), "{told:?}");
        }
        assert!(read("# nobody\n").err().unwrap()[0].contains("has no users, so nobody could pass"));
        let many = read(&"x\n".repeat(50)).err().unwrap();
        assert_eq!(many.len(), 21);
        assert!(many[20].contains("has 30 more lines that are wrong"));
    }
}
