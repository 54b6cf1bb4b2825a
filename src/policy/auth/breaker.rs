//! A circuit breaker: a server that cannot be reached, or that answers nobody, is left alone for a while, then asked once.
//!
//! Whoever sends a credential chooses what is asked, and some questions fail by themselves: a server may crash at a certain cookie, or take
//! long for it. So failures count for the client whose questions they were, and shut out that client. They shut out everybody where no
//! question can be put at all (no connection), or where those of several clients fail and for a while nobody's has been answered.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::egress::{Failure, Reason};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
/// Of so many clients they must be to open it for all, where the server can be reached.
const CLIENTS: usize = 3;
/// And for so long nobody must have been answered.
const QUIET: Duration = Duration::from_secs(1);
/// Clients whose failures are counted at once.
const LINES_MAX: usize = 1024;
/// Failures longer ago make room for those of others.
const KEPT: Duration = Duration::from_secs(60);

/// The breaker of one server.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Whose server it is, for the log.
    policy: Arc<str>,
    /// How long it stays open before one question is let through.
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Everybody's.
    all: Line,
    /// Connections in a row that failed.
    unreached: u32,
    /// Whose questions have failed since one was answered, by a server that was reached.
    failing: Vec<IpAddr>,
    /// When one was answered last.
    answered: Option<Instant>,
    /// Those of clients whose last question has failed.
    lines: HashMap<IpAddr, Line>,
    /// How many of them are open.
    open: usize,
}

/// Failures in a row, and what became of them.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    failures: u32,
    last: Option<Instant>,
    open_until: Option<Instant>,
    /// One question is under way that tells whether the server is back.
    probing: bool,
}

impl Line {
    /// Whether a question is let through, and as the one that tells.
    fn allows(&self, now: Instant) -> Option<bool> {
        match self.open_until {
            None => Some(false),
            Some(until) if now < until || self.probing => None,
            Some(_) => Some(true),
        }
    }

    fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    fn open(&mut self, until: Instant) {
        self.open_until = Some(until);
        self.probing = false;
    }
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It could not be put.
    Unreached,
    /// It was not answered, or in vain.
    Failed,
    Answered,
}

/// Leave to ask once. One that is dropped after it has begun, and was not answered, is a failure; one that never began says
/// nothing: waiting in our own queue is no fault of the server's.
#[derive(Debug)]
pub(super) struct Turn {
    breaker: Arc<Breaker>,
    client: IpAddr,
    /// Whether it tells the client, and everybody, that the server is back.
    probes: (bool, bool),
    begun: bool,
    end: End,
}

impl Breaker {
    pub(super) fn new(policy: Arc<str>, pause: Duration) -> Arc<Self> {
        Arc::new(Self { policy, pause, state: Mutex::default() })
    }

    /// A turn for a question of this client's; none while the server is left alone, or with this client's questions.
    pub(super) fn turn(self: &Arc<Self>, client: IpAddr, now: Instant) -> Option<Turn> {
        let client = one_of(client);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { all, lines, .. } = &mut *state;
        let mut own = lines.get_mut(&client);
        let probes = (own.as_ref().map_or(Some(false), |line| line.allows(now))?, all.allows(now)?);
        if let Some(line) = &mut own {
            line.probing |= probes.0;
        }
        all.probing |= probes.1;
        Some(Turn { breaker: Arc::clone(self), client, probes, begun: false, end: End::Failed })
    }

    /// How it went; and what the log is told.
    fn report(
        &self,
        turn: (IpAddr, (bool, bool)),
        end: End,
        now: Instant,
    ) -> Option<(log::Level, &'static str)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (all_before, some_before) = (state.all.is_open(), state.is_open_for_some());
        match end {
            End::Answered => state.forgive(turn.0, now),
            End::Failed | End::Unreached => state.blame(turn, end == End::Unreached, now, now + self.pause),
        }
        match ((all_before, state.all.is_open()), (some_before, state.is_open_for_some())) {
            ((false, true), _) => Some((log::Level::Warn, "the circuit breaker is open")),
            ((true, false), _) => Some((log::Level::Info, "the circuit breaker is closed")),
            (_, (false, true)) => Some((
                log::Level::Warn,
                "the circuit breaker is open for clients whose questions have failed",
            )),
            (_, (true, false)) => Some((log::Level::Info, "the circuit breaker is closed for every client")),
            _ => None,
        }
    }
}

impl State {
    fn is_open_for_some(&self) -> bool {
        self.open > 0
    }

    fn forgive(&mut self, client: IpAddr, now: Instant) {
        self.all = Line::default();
        self.unreached = 0;
        self.failing.clear();
        self.answered = Some(now);
        self.open -= usize::from(self.lines.remove(&client).is_some_and(|line| line.is_open()));
    }

    fn blame(
        &mut self,
        (client, probes): (IpAddr, (bool, bool)),
        unreached: bool,
        now: Instant,
        until: Instant,
    ) {
        if self.lines.len() >= LINES_MAX && !self.lines.contains_key(&client) {
            self.lines.retain(|_, line| line.last.is_some_and(|last| now.duration_since(last) < KEPT));
            self.open = self.lines.values().filter(|line| line.is_open()).count();
        }
        // Where there is no room, the client's failures count for everybody alone.
        if self.lines.len() < LINES_MAX || self.lines.contains_key(&client) {
            let own = self.lines.entry(client).or_default();
            own.failures = own.failures.saturating_add(1);
            own.last = Some(now);
            // A question from before it opened must not close the way to the probe.
            if probes.0 || !own.is_open() && own.failures >= FAILURES {
                self.open += usize::from(!own.is_open());
                own.open(until);
            }
        }
        self.unreached = if unreached { self.unreached.saturating_add(1) } else { 0 };
        if !unreached && self.failing.len() < CLIENTS && !self.failing.contains(&client) {
            self.failing.push(client);
        }
        self.all.failures = self.all.failures.saturating_add(1);
        let is_quiet = self.answered.is_none_or(|at| now.duration_since(at) >= QUIET);
        let is_down = self.unreached >= FAILURES;
        let is_useless = self.all.failures >= FAILURES && self.failing.len() >= CLIENTS && is_quiet;
        match (self.all.is_open(), probes.1) {
            (false, _) if is_down || is_useless => self.all.open(until),
            (true, true) if unreached || is_useless => self.all.open(until),
            // It is there again, though not for this client's question.
            (true, true) => self.all = Line { open_until: None, probing: false, ..self.all },
            _ => {}
        }
    }
}

/// Whom failures are counted for: an address, or the network of one client in IPv6.
fn one_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

impl Turn {
    /// The server is asked from now on.
    pub(super) fn begin(&mut self) {
        self.begun = true;
    }

    /// It has answered, whatever it said.
    pub(super) fn answered(&mut self) {
        self.end = End::Answered;
    }

    /// It has not, and here is why.
    pub(super) fn failed(&mut self, failure: &Failure) {
        if matches!(failure.reason, Reason::Unresolved | Reason::Connect | Reason::Tls) {
            self.end = End::Unreached;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let breaker = &self.breaker;
        if !self.begun {
            // The next one may be the probe.
            let mut state = breaker.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.all.probing &= !self.probes.1;
            if let Some(own) = state.lines.get_mut(&self.client) {
                own.probing &= !self.probes.0;
            }
        } else if let Some((level, told)) =
            breaker.report((self.client, self.probes), self.end, Instant::now())
        {
            log::log!(level, "{}: {told}", breaker.policy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn breaker() -> (Arc<Breaker>, Instant) {
        (Breaker::new("auth.test".into(), PAUSE), Instant::now())
    }

    fn client(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    /// Asks for this client at this time, with this end; whether it was let through, and what the log was told.
    fn ask(breaker: &Arc<Breaker>, number: u8, end: End, now: Instant) -> Option<Option<&'static str>> {
        let turn = breaker.turn(client(number), now)?;
        let told = breaker.report((turn.client, turn.probes), end, now);
        std::mem::forget(turn);
        Some(told.map(|(_, told)| told))
    }

    #[test]
    fn failures_in_a_row_shut_out_whose_questions_they_were_and_nobody_else() {
        let (breaker, start) = breaker();
        for _ in 1..FAILURES {
            assert_eq!(ask(&breaker, 1, End::Failed, start), Some(None));
        }
        assert_eq!(ask(&breaker, 1, End::Answered, start), Some(None), "one success forgives all");
        for _ in 1..FAILURES {
            assert_eq!(ask(&breaker, 1, End::Failed, start), Some(None));
        }
        let told = ask(&breaker, 1, End::Failed, start).unwrap().unwrap();
        assert!(told.contains("open for clients"), "{told}");
        assert!(breaker.turn(client(1), start + PAUSE - Duration::from_millis(1)).is_none());
        for number in 2..200 {
            assert_eq!(ask(&breaker, number, End::Answered, start), Some(None), "{number}");
        }
        let probe = start + PAUSE;
        let first = breaker.turn(client(1), probe).unwrap();
        assert!(breaker.turn(client(1), probe).is_none(), "one probe at a time");
        assert_eq!(breaker.report((first.client, first.probes), End::Failed, probe), None, "it stays open");
        std::mem::forget(first);
        assert!(breaker.turn(client(1), probe + PAUSE - Duration::from_millis(1)).is_none());
        let told = ask(&breaker, 1, End::Answered, probe + PAUSE).unwrap().unwrap();
        assert!(told.contains("closed"), "{told}");
        assert_eq!(ask(&breaker, 1, End::Answered, probe + PAUSE), Some(None));
    }

    proptest::proptest! {
        #[test]
        fn those_that_are_open_are_counted_right(
            turns in proptest::collection::vec((0..5_u8, 0..3_u8, 0..3_000_u64), 0..300),
        ) {
            let (breaker, mut now) = breaker();
            for (number, end, later) in turns {
                now += Duration::from_millis(later);
                let end = [End::Answered, End::Failed, End::Unreached][usize::from(end)];
                let _ = ask(&breaker, number, end, now);
                let state = breaker.state.lock().unwrap();
                proptest::prop_assert_eq!(state.open, state.lines.values().filter(|line| line.is_open()).count());
            }
        }
    }

    #[test]
    fn a_client_with_a_network_of_its_own_is_one() {
        let (breaker, start) = breaker();
        for number in 0..FAILURES {
            let address = IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, u16::try_from(number).unwrap()]);
            let turn = breaker.turn(address, start).unwrap();
            breaker.report((turn.client, turn.probes), End::Failed, start);
            std::mem::forget(turn);
        }
        assert!(breaker.turn("2001:db8:0:7::ffff".parse().unwrap(), start).is_none());
        assert!(breaker.turn("2001:db8:0:8::1".parse().unwrap(), start).is_some());
    }

    #[test]
    fn a_server_that_cannot_be_reached_is_left_alone_whoever_asks() {
        let (breaker, start) = breaker();
        for _ in 1..FAILURES {
            assert_eq!(ask(&breaker, 1, End::Unreached, start), Some(None));
        }
        let told = ask(&breaker, 2, End::Unreached, start).unwrap().unwrap();
        assert_eq!(told, "the circuit breaker is open");
        assert!(breaker.turn(client(3), start).is_none());
        assert_eq!(ask(&breaker, 3, End::Unreached, start + PAUSE), Some(None), "the probe");
        assert!(breaker.turn(client(3), start + PAUSE).is_none());
        // It is back: one client's question that fails by itself does not hold up the others.
        let back = start + 2 * PAUSE;
        let told = ask(&breaker, 4, End::Failed, back).unwrap().unwrap();
        assert_eq!(told, "the circuit breaker is closed");
        assert_eq!(ask(&breaker, 5, End::Answered, back), Some(None));
    }

    #[test]
    fn it_opens_for_all_where_several_clients_fail_and_nobody_is_answered() {
        let make = breaker;
        let (breaker, start) = make();
        assert_eq!(ask(&breaker, 9, End::Answered, start), Some(None));
        let soon = start + QUIET / 2;
        for number in 1..40 {
            assert_eq!(
                ask(&breaker, number, End::Failed, soon),
                Some(None),
                "somebody was answered a moment ago"
            );
        }
        let later = soon + QUIET;
        assert_eq!(ask(&breaker, 40, End::Failed, later), Some(Some("the circuit breaker is open")));
        assert!(breaker.turn(client(9), later).is_none());
        // Two of them are not several.
        let (breaker, start) = make();
        for number in (1..=2).cycle().take(8) {
            assert!(ask(&breaker, number, End::Failed, start).is_some());
        }
        assert!(breaker.turn(client(3), start).is_some());
    }

    #[test]
    fn a_late_failure_does_not_keep_it_open() {
        let (breaker, start) = breaker();
        let late = breaker.turn(client(1), start).unwrap();
        for _ in 0..FAILURES {
            ask(&breaker, 1, End::Unreached, start);
        }
        breaker.report((late.client, late.probes), End::Failed, start + Duration::from_secs(4));
        std::mem::forget(late);
        assert!(breaker.turn(client(1), start + PAUSE).is_some());
    }

    #[test]
    fn clients_are_counted_in_a_bounded_space() {
        let (breaker, start) = breaker();
        let fail = |number: usize, now| {
            let number = u32::try_from(number).unwrap();
            let address = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            breaker.report((address, (false, false)), End::Failed, now)
        };
        for number in 0..3 * LINES_MAX {
            fail(number, start);
        }
        assert_eq!(breaker.state.lock().unwrap().lines.len(), LINES_MAX);
        fail(4 * LINES_MAX, start + KEPT);
        assert_eq!(breaker.state.lock().unwrap().lines.len(), 1, "they are forgotten");
    }

    #[test]
    fn a_turn_says_how_it_went_however_it_ends() {
        let (breaker, start) = breaker();
        let turn = |at| breaker.turn(client(1), at);
        for _ in 0..10 * FAILURES {
            drop(turn(start).expect("nothing was asked yet"));
        }
        for _ in 0..FAILURES {
            turn(start).expect("it opens after the last").begin();
        }
        assert!(turn(start).is_none());
        let probe = Instant::now() + PAUSE;
        drop(turn(probe).expect("the first probe"));
        let mut second = turn(probe).expect("another in the stead of one that never began");
        assert!(turn(probe).is_none());
        second.begin();
        second.answered();
        drop(second);
        assert!(turn(start).is_some(), "an answer closes it");
    }
}
