//! A node of a cluster, as the crate `redis` is to use it: what may have been run is not run again.
//!
//! The crate sends a command once more when a connection has failed, and cannot know whether the node had run it. A script that charges
//! tokens would charge them twice, so such a failure is shown to the crate as one that nothing helps against. The whole
//! connection is given up then. `MOVED`, `ASK` and what else a node says instead of running a command stay the crate's.

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster_async::Connect;
use ::redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, Value,
};

use super::link::CONNECT;
use super::stream::{Driver, Stream};

/// The connection to a node; our own stream has a driver.
#[derive(Clone)]
pub(super) struct Node(
    MultiplexedConnection,
    #[expect(dead_code, reason = "it is there to be dropped")] Option<Driver>,
);

impl ConnectionLike for Node {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move { self.0.req_packed_command(command).await.map_err(once) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move { self.0.req_packed_commands(pipeline, offset, count).await.map_err(once) })
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

impl Connect for Node {
    fn connect_with_config<'a, T>(info: T, config: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        Box::pin(async move {
            let info = info.into_connection_info()?;
            // Not every user may name the library.
            let who = info.redis_settings().clone().set_skip_set_lib_name();
            let ConnectionAddr::Tcp(host, port) = info.addr() else {
                // In TLS the stream is the crate's, which alone has the authorities here: what a node may say there is not bounded.
                let info = info.set_redis_settings(who);
                let connected = MultiplexedConnection::connect_with_config(info, config).await;
                return connected.map(|connection| Self(connection, None));
            };
            let connecting = async {
                let stream = Stream::plain(host, *port).await?;
                MultiplexedConnection::new_with_config(&who, stream, config).await
            };
            let late = |_| RedisError::from((ErrorKind::Io, "it does not answer in time"));
            let (connection, driver) = tokio::time::timeout(CONNECT, connecting).await.map_err(late)??;
            Ok(Self(connection, Some(Driver::of(driver))))
        })
    }
}

fn once(error: RedisError) -> RedisError {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => error,
        _ => (ErrorKind::Client, "the connection has failed").into(),
    }
}
