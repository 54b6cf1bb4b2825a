//! Whether a client leaves while its request waits for its turn.
//!
//! While a request is being admitted nobody reads its connection, so nobody would see its client go. A policy that waits says so
//! ([`Turn`]), and from then on the connection is watched: on HTTP/2 by h2, which hears of a reset; on HTTP/1 by the rim, which has the
//! socket ask the system whether the peer has closed it. Nothing is read for that, so what was pipelined stays where it is.

use std::any::Any;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::ctx::Stage;
use super::view;
use crate::gateway::Admission;
use crate::policy::Turn;
use crate::record::ErrorFacts;

/// Ends when the client has left.
pub type Left<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// How the rim watches a connection of HTTP/1 that it has given to Pingora; none where it is none of its own.
pub type Watch = for<'a> fn(&'a dyn Any) -> Option<Left<'a>>;

/// Admits a request, unless its client leaves while it waits for its turn.
///
/// # Errors
/// What is to be noted: the client has left, and the request has left the queue.
pub(super) async fn admit(
    stage: &mut Stage,
    session: &mut Session,
    watch: Option<Watch>,
) -> Result<Admission, ErrorFacts> {
    let turn = Turn::default();
    stage.passage.effects.turn = Some(turn.clone());
    // Out of the session, which is needed to watch a stream of HTTP/2.
    let blank = RequestHeader::from(http::Request::new(()).into_parts().0);
    let head = std::mem::replace(session.req_header_mut(), blank);
    let admission = {
        let arrival = view::arrival(&head, &stage.connection);
        unless_left(stage.passage.admit(&arrival), &turn, left(session, watch)).await
    };
    *session.req_header_mut() = head;
    stage.passage.effects.turn = None;
    admission
}

/// Ends when the client has left; never where that cannot be seen.
async fn left(session: &mut Session, watch: Option<Watch>) {
    let stream = session.as_downstream_mut();
    if stream.is_custom() {
        // It reads nothing: it waits for the reset.
        let _ = stream.read_body_or_idle(true).await;
        return;
    }
    let watched = stream.stream().zip(watch).and_then(|(stream, watch)| watch((**stream).as_any()));
    match watched {
        Some(left) => left.await,
        None => pending().await,
    }
}

/// What comes of a request, or what is noted if its client leaves while it waits.
async fn unless_left<T>(
    request: impl Future<Output = T>,
    turn: &Turn,
    left: impl Future<Output = ()>,
) -> Result<T, ErrorFacts> {
    let (mut request, mut left) = (pin!(request), pin!(left));
    let mut has_left = false;
    poll_fn(|cx| {
        if let Poll::Ready(done) = request.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let Some(facts) = turn.left() else { return Poll::Pending };
        has_left = has_left || left.as_mut().poll(cx).is_ready();
        if has_left { Poll::Ready(Err(facts)) } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    fn facts() -> ErrorFacts {
        ErrorFacts {
            response_type: "CLIENT_CLOSED",
            reason: "queue_left",
            message: "gone".into(),
            policy: None,
            site: None,
        }
    }

    #[test]
    fn a_client_that_leaves_ends_only_a_request_that_waits() {
        let turn = Turn::default();
        assert_eq!(
            unless_left(ready(7), &turn, ready(())).now_or_never(),
            Some(Ok(7)),
            "what is done is done"
        );
        let busy = unless_left(pending::<u8>(), &turn, ready(()));
        assert_eq!(busy.now_or_never(), None, "what does not wait goes on");
        let waiting = turn.waits(facts());
        assert_eq!(unless_left(pending::<u8>(), &turn, ready(())).now_or_never(), Some(Err(facts())));
        assert_eq!(
            unless_left(pending::<u8>(), &turn, pending()).now_or_never(),
            None,
            "and nobody has left"
        );
        drop(waiting);
        assert_eq!(unless_left(pending::<u8>(), &turn, ready(())).now_or_never(), None, "its turn has come");
    }

    #[tokio::test]
    async fn a_client_that_left_early_is_found_out_at_the_next_wait() {
        let turn = Turn::default();
        let (go, gone) = oneshot::channel::<()>();
        let request = async {
            drop(turn.waits(facts()));
            gone.await.unwrap();
            let _waiting = turn.waits(facts());
            pending::<u8>().await
        };
        let (_, seen) = tokio::join!(async { go.send(()).unwrap() }, unless_left(request, &turn, ready(())));
        assert_eq!(seen, Err(facts()));
    }
}
