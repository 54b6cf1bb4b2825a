//! A server that says what a test wants.

use std::sync::mpsc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::*;
use crate::config::{Build, Spanned, load_text};

/// What it answers to a command, by the command's words; nothing at all where it is to be silent, and an empty text to hang up.
type Mind = fn(&[String]) -> Option<&'static str>;

fn text() -> &'static Script {
    static SCRIPT: std::sync::OnceLock<Script> = std::sync::OnceLock::new();
    SCRIPT.get_or_init(|| Script::new("return {1, 2}"))
}

fn endpoint(text: &str) -> Endpoint {
    let mut build = Build::default();
    let config: Spanned<Config> = load_text("t.yaml", text, &|_| None, &mut build)
        .unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
    Endpoint::compile(&config, &mut build)
        .unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)))
}

async fn serve(mind: Mind) -> (String, mpsc::Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                loop {
                    while let Some((words, length)) = command(&bytes) {
                        bytes.drain(..length);
                        let answer = mind(&words);
                        tell.send(words).ok();
                        match answer {
                            Some("") => return,
                            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                            None => std::future::pending().await,
                        }
                    }
                    if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
            });
        }
    });
    (url, told)
}

fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let text = std::str::from_utf8(bytes).unwrap();
    let (head, mut rest) = text.strip_prefix('*')?.split_once("\r\n")?;
    let mut words = Vec::new();
    for _ in 0..head.parse::<usize>().unwrap() {
        let (length, after) = rest.strip_prefix('$')?.split_once("\r\n")?;
        let length: usize = length.parse().unwrap();
        words.push(after.get(..length)?.to_owned());
        rest = after.get(length + 2..)?;
    }
    Some((words, text.len() - rest.len()))
}

fn redis(text: &str) -> (Arc<Redis>, Live) {
    let live = Live::default();
    live.set_runtime(Handle::current());
    (Redis::of(endpoint(text), &live), live)
}

async fn until(redis: &Redis, status: Status) {
    let waiting = async {
        while redis.status() != status {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
}

async fn ask(redis: &Redis) -> Result<Vec<i64>, Lost> {
    let (tell, told) = tokio::sync::oneshot::channel();
    redis.ask(Question {
        script: text(),
        key: "l:1".to_owned(),
        arguments: vec!["7".to_owned()],
        answer: Box::new(move |answer| tell.send(answer).unwrap()),
    });
    told.await.unwrap()
}

fn knows(words: &[String]) -> Option<&'static str> {
    match words.first().map(String::as_str) {
        Some("EVALSHA") => Some("-NOSCRIPT No matching script.\r\n"),
        Some("EVAL") => Some("*2\r\n:1\r\n:2\r\n"),
        _ => Some("+OK\r\n"),
    }
}

#[tokio::test]
async fn a_script_that_the_store_does_not_know_is_told_in_full() {
    let (url, told) = serve(knows).await;
    let (redis, _live) = redis(&format!("{{redis: '{url}/3', user: me, password: hunter-2, prefix: edge}}"));
    until(&redis, Status::Ready).await;
    assert_eq!(ask(&redis).await, Ok(vec![1, 2]));
    let commands: Vec<_> = told.try_iter().collect();
    let [auth, select, ping, hashed, full, ..] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(auth[..], ["AUTH", "me", "hunter-2"]);
    assert_eq!(select[..], ["SELECT", "3"]);
    assert_eq!(ping[..], ["PING"]);
    assert_eq!(hashed[..], ["EVALSHA", &hex_of(text()), "1", "edge:l:1", "7"]);
    assert_eq!(full[..], ["EVAL", "return {1, 2}", "1", "edge:l:1", "7"]);
    assert!(!format!("{redis:?}").contains("hunter"), "{redis:?}");
    assert_eq!((redis.figures().answered, redis.figures().unanswered), (1, 0));
}

fn hex_of(script: &Script) -> String {
    String::from_utf8(script.hash.to_vec()).unwrap()
}

#[test]
fn scripts_are_known_by_their_sha_1() {
    assert_eq!(hex_of(&Script::new("return 1")), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_late_then_lost_and_asked_no_more() {
    fn silent(words: &[String]) -> Option<&'static str> {
        (words[0] == "PING" && words.len() == 1).then_some("+PONG\r\n")
    }
    let (url, _told) = serve(silent).await;
    let (redis, _live) = redis(&format!("{{redis: '{url}'}}"));
    until(&redis, Status::Ready).await;
    let asking = tokio::spawn({
        let redis = Arc::clone(&redis);
        async move { ask(&redis).await }
    });
    until(&redis, Status::Late).await;
    assert_eq!(asking.await.unwrap(), Err(Lost { sent: true }));
    until(&redis, Status::Lost).await;
    assert_eq!(ask(&redis).await, Err(Lost { sent: false }), "at once");
    assert_eq!(redis.figures().losses, 1);
    // It takes connections again.
    until(&redis, Status::Ready).await;
}

#[tokio::test]
async fn what_a_server_says_wrongly_ends_the_connection_or_is_no_answer() {
    fn wrong(words: &[String]) -> Option<&'static str> {
        Some(match words[0].as_str() {
            "EVALSHA" => "-WRONGTYPE somebody else's\r\n",
            _ => "+OK\r\n",
        })
    }
    let (url, _told) = serve(wrong).await;
    let (store, _live) = redis(&format!("{{redis: '{url}'}}"));
    until(&store, Status::Ready).await;
    assert_eq!(ask(&store).await, Err(Lost { sent: false }), "an error has changed nothing");
    assert_eq!(
        (store.status(), store.figures().losses),
        (Status::Ready, 0),
        "one key is nothing to do with others"
    );
}

/// A server that answers a question so, and nothing more.
fn says(words: &[String], what: &'static str) -> Option<&'static str> {
    Some(if words[0] == "EVALSHA" { what } else { "+OK\r\n" })
}

#[tokio::test]
async fn what_is_no_answer_or_has_no_end_costs_the_connection_and_nothing_else() {
    static DEEP: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| "*1\r\n".repeat(100_000));
    let minds: [Mind; 7] = [
        |words| says(words, "HTTP/1.1 200 OK\r\n"),
        |words| says(words, ":99999999999999999999\r\n"),
        |words| says(words, &DEEP),
        // More than will ever come is waited for, for half a second, and no room is made for it.
        |words| says(words, "*999999999999\r\n:1\r\n"),
        |words| says(words, "$999999999999\r\nx"),
        |words| says(words, "*2\r\n:1\r\n"),
        |words| says(words, "\u{1b}[31m"),
    ];
    for mind in minds {
        let (url, _told) = serve(mind).await;
        let (store, _live) = redis(&format!("{{redis: '{url}'}}"));
        until(&store, Status::Ready).await;
        assert_eq!(ask(&store).await, Err(Lost { sent: true }));
        until(&store, Status::Lost).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_no_list_of_numbers_is_none() {
    let minds: [Mind; 7] = [
        |words| says(words, "+OK\r\n"),
        |words| says(words, "$-1\r\n"),
        |words| says(words, ":1\r\n"),
        |words| says(words, "*2\r\n:1\r\n$1\r\n2\r\n"),
        |words| says(words, "*1\r\n*1\r\n:1\r\n"),
        |words| says(words, "%1\r\n:1\r\n:2\r\n"),
        |words| {
            says(
                words,
                "*17\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
            )
        },
    ];
    for mind in minds {
        let (url, _told) = serve(mind).await;
        let (store, _live) = redis(&format!("{{redis: '{url}'}}"));
        until(&store, Status::Ready).await;
        assert_eq!(ask(&store).await, Err(Lost { sent: true }));
        assert_eq!((store.figures().answered, store.figures().losses), (0, 0));
    }
}

#[tokio::test]
async fn sentinels_are_asked_one_after_the_other_and_the_master_must_be_one() {
    fn replica(words: &[String]) -> Option<&'static str> {
        Some(match words[0].as_str() {
            "ROLE" => "*3\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n",
            _ => "+OK\r\n",
        })
    }
    let (url, told) = serve(replica).await;
    static MASTER: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let port = url.rsplit(':').next().unwrap();
    MASTER.set(format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())).unwrap();
    fn sentinel(words: &[String]) -> Option<&'static str> {
        Some(match words[0].as_str() {
            "SENTINEL" => MASTER.get().unwrap(),
            _ => "+OK\r\n",
        })
    }
    let (sentinel, _) = serve(sentinel).await;
    let endpoint =
        endpoint(&format!("{{sentinel: {{urls: ['redis://127.0.0.1:1', '{sentinel}'], master: store}}}}"));
    let Err(broken) = link::Link::open(&endpoint).await else { panic!("a replica is taken for the master") };
    assert!(broken.0.contains("which the sentinels call master, is none"), "{broken}");
    assert!(told.try_iter().any(|words| words[0] == "ROLE"));
}

/// All slots are with the one that listens there.
fn slots(url: &str) -> String {
    let port = url.rsplit(':').next().unwrap();
    format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n")
}

/// The slot of `portcullis:l:1`.
const SLOT: u16 = 14_233;

#[tokio::test]
async fn a_cluster_is_followed_to_the_node_that_has_the_key() {
    use std::sync::OnceLock;
    static OWNER: OnceLock<String> = OnceLock::new();
    static MOVED: OnceLock<String> = OnceLock::new();
    static ASK: OnceLock<String> = OnceLock::new();
    static SEEDS: [OnceLock<String>; 2] = [const { OnceLock::new() }; 2];
    fn owner(words: &[String]) -> Option<&'static str> {
        match words[0].as_str() {
            "CLUSTER" => Some(OWNER.get().unwrap()),
            _ => knows(words),
        }
    }
    fn stranger(words: &[String], seed: usize, answer: &'static OnceLock<String>) -> Option<&'static str> {
        Some(match words[0].as_str() {
            "CLUSTER" => SEEDS[seed].get().unwrap(),
            word if word.starts_with("EVAL") => answer.get().unwrap(),
            _ => "+OK\r\n",
        })
    }
    let (url, told) = serve(owner).await;
    let address = url.trim_start_matches("redis://");
    OWNER.set(slots(&url)).unwrap();
    MOVED.set(format!("-MOVED {SLOT} {address}\r\n")).unwrap();
    ASK.set(format!("-ASK {SLOT} {address}\r\n")).unwrap();
    let minds: [Mind; 2] = [|words| stranger(words, 0, &MOVED), |words| stranger(words, 1, &ASK)];
    for (number, mind) in minds.into_iter().enumerate() {
        let (seed, _) = serve(mind).await;
        SEEDS[number].set(slots(&seed)).unwrap();
        let (store, _live) = redis(&format!("{{cluster: {{urls: ['redis://127.0.0.1:1', '{seed}']}}}}"));
        until(&store, Status::Ready).await;
        assert_eq!(ask(&store).await, Ok(vec![1, 2]));
        let of = |word: &str, words: &[Vec<String>]| words.iter().filter(|said| said[0] == word).count();
        let commands: Vec<_> = told.try_iter().collect();
        assert_eq!([of("EVALSHA", &commands), of("EVAL", &commands)], [1, 1], "{commands:?}");
        assert_eq!(of("ASKING", &commands), if number == 1 { 2 } else { 0 }, "{commands:?}");
        // Who is not told that it is a cluster does not go where it is sent.
        if number == 0 {
            let (store, _live) = redis(&format!("{{redis: '{seed}'}}"));
            until(&store, Status::Ready).await;
            assert_eq!(ask(&store).await, Err(Lost { sent: false }));
            until(&store, Status::Lost).await;
        }
    }
}

#[tokio::test]
async fn what_a_node_may_have_run_before_it_hung_up_is_not_run_again() {
    static SEED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    fn hangs_up(words: &[String]) -> Option<&'static str> {
        Some(match words[0].as_str() {
            "CLUSTER" => SEED.get().unwrap(),
            "EVALSHA" => "",
            _ => "+OK\r\n",
        })
    }
    let (seed, told) = serve(hangs_up).await;
    SEED.set(slots(&seed)).unwrap();
    let (store, _live) = redis(&format!("{{cluster: {{urls: ['{seed}']}}}}"));
    until(&store, Status::Ready).await;
    assert_eq!(ask(&store).await, Err(Lost { sent: true }));
    // The next connection is there, and nothing was asked by it.
    until(&store, Status::Ready).await;
    assert_eq!(told.try_iter().filter(|words| words[0].starts_with("EVAL")).count(), 1);
}

#[tokio::test]
async fn no_more_questions_wait_than_there_is_room_for() {
    let (redis, _live) = redis("{redis: 'redis://127.0.0.1:1'}");
    redis.shared.set_status(Status::Ready);
    let unanswered = Arc::new(AtomicU64::new(0));
    for _ in 0..QUESTIONS_MAX + 10 {
        let unanswered = Arc::clone(&unanswered);
        redis.ask(Question {
            script: text(),
            key: String::new(),
            arguments: Vec::new(),
            answer: Box::new(move |answer| {
                assert_eq!(answer, Err(Lost { sent: false }));
                unanswered.fetch_add(1, Ordering::Relaxed);
            }),
        });
    }
    assert_eq!(unanswered.load(Ordering::Relaxed), 10);
}
