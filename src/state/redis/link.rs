//! The connection to a store, by the crate `redis`: to a server, to the one that sentinels call master, or to a cluster.
//!
//! Protocol, login and the ways of a cluster (`MOVED`, `ASK`, TLS) are the crate's. Ours are the stream, which bounds an answer, the words
//! that the log says, as the crate's may quote what a server has said, and which sentinel is asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, Pipeline,
    RedisConnectionInfo, RedisError, TlsCertificates, TlsMode, Value, cmd,
};
use futures_util::future::join_all;

use super::broken::{Broken, lost, refused, unreachable, word, word_of};
use super::config::{Address, Endpoint, Login, Way};
use super::node::Node;
use super::stream::{Driver, Stream};

/// How long one server or sentinel may take to be connected to, and how long a cluster.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
const CONNECT_ALL: Duration = Duration::from_secs(3);
/// How long a node of a cluster may take to say who the others are.
const TOPOLOGY: Duration = Duration::from_millis(500);
/// How often a question is sent on to another node of a cluster, and the milliseconds that are waited where a node asks for it.
const MOVES_MAX: u32 = 3;
const MOVES_WAIT: (u64, u64) = (10, 50);

/// A connection. After an error it is of no use any more.
pub(super) struct Link {
    connection: Connection,
    /// Who is spoken to, as the log says it.
    name: Box<str>,
}

enum Connection {
    Server(Server),
    Cluster(ClusterConnection<Node>),
}

/// The connection to one server.
struct Server {
    connection: MultiplexedConnection,
    _driver: Driver,
    /// It has said more than it may.
    is_over: Arc<AtomicBool>,
}

impl Server {
    /// Why it is of no use any more.
    fn lost(&self, name: &str, error: &RedisError) -> Broken {
        match self.is_over.load(Ordering::Relaxed) {
            true => Broken(format!("{name} says more than any answer has")),
            false => lost(&name, error),
        }
    }
}

/// What became of a command.
#[derive(Debug)]
pub(super) enum Reply {
    Answer(Value),
    /// The word that an error begins with: `WRONGTYPE`. What follows is the server's, and goes nowhere.
    Refused(Box<str>),
    /// There is no answer.
    Lost(Broken),
}

impl Link {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Nobody can be reached, or takes us.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, Broken> {
        match &endpoint.way {
            Way::Server(address) => Self::enter(address, endpoint).await,
            Way::Sentinels { addresses, master, login } => {
                let mut last = Broken("no sentinel is named".to_owned());
                for sentinel in addresses {
                    let asked = ask_sentinel(sentinel, login, master, endpoint);
                    last = match within(asked, CONNECT, sentinel).await {
                        Ok(address) => match Self::enter_master(&address, endpoint).await {
                            Ok(link) => return Ok(link),
                            Err(broken) => broken,
                        },
                        Err(broken) => broken,
                    };
                }
                Err(last)
            }
            Way::Cluster(addresses) => {
                let mut last = Broken("no node is named".to_owned());
                for address in addresses {
                    // Says why, where one cannot be entered.
                    match Self::enter(address, endpoint).await {
                        Ok(_) => return Self::enter_cluster(addresses, endpoint).await,
                        Err(broken) => last = broken,
                    }
                }
                Err(last)
            }
        }
    }

    /// Sends all of it at once; gives what became of each, in the same order.
    ///
    /// # Errors
    /// The connection is lost, and any command may have been run.
    pub(super) async fn round(&mut self, commands: &[Cmd]) -> Result<Vec<Reply>, Broken> {
        let said: Vec<_> = match &mut self.connection {
            Connection::Server(server) => {
                let mut pipeline = Pipeline::new();
                pipeline.ignore_errors();
                commands.iter().for_each(|command| {
                    pipeline.add_command(command.clone());
                });
                let answers = pipeline.query_async(&mut server.connection).await;
                let answers: Vec<Value> = answers.map_err(|error| server.lost(&self.name, &error))?;
                answers.into_iter().map(|answer| said(Ok(answer), &self.name)).collect()
            }
            // Each goes to the node that has its key; the crate sends what is for one node together.
            Connection::Cluster(connection) => {
                let asked = commands.iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { connection.req_packed_command(command).await }
                });
                join_all(asked).await.into_iter().map(|answer| said(answer, &self.name)).collect()
            }
        };
        if said.len() == commands.len() {
            Ok(said)
        } else {
            Err(Broken(format!("{} does not answer one by one", self.name)))
        }
    }

    /// Whether it answers; in a cluster, whether all masters do.
    ///
    /// # Errors
    /// It does not, or refuses.
    pub(super) async fn ping(&mut self) -> Result<(), Broken> {
        let ping = cmd("PING");
        let answered = match &mut self.connection {
            Connection::Server(server) => server.connection.req_packed_command(&ping).await,
            Connection::Cluster(connection) => connection.req_packed_command(&ping).await,
        };
        answer(answered, &self.name).map(|_| ())
    }

    /// Whether keys are spread over several servers.
    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self.connection, Connection::Cluster(_))
    }

    /// That it has refused something with this word.
    pub(super) fn refused(&self, word: &str) -> Broken {
        match (&self.connection, word) {
            (Connection::Cluster(_), "MOVED") => {
                Broken("the nodes of the cluster do not agree which of them has a key".to_owned())
            }
            _ => Broken(refused(&self.name, word)),
        }
    }

    /// Connects to this server and logs in.
    async fn enter(address: &Address, endpoint: &Endpoint) -> Result<Self, Broken> {
        let entering = connect(address, &endpoint.login, endpoint.database, endpoint);
        let connection = Connection::Server(within(entering, CONNECT, address).await?);
        Ok(Self { connection, name: address.to_string().into() })
    }

    /// As [`Link::enter`]; what is no master any more does not take what is written.
    async fn enter_master(address: &Address, endpoint: &Endpoint) -> Result<Self, Broken> {
        let mut link = Self::enter(address, endpoint).await?;
        let asked = async { link.round(&[cmd("ROLE")]).await.map(|mut said| said.pop()) };
        match within(asked, CONNECT, address).await? {
            Some(Reply::Answer(Value::Array(role)))
                if role.first() == Some(&Value::BulkString(b"master".to_vec())) =>
            {
                Ok(link)
            }
            Some(Reply::Refused(word)) => Err(link.refused(&word)),
            Some(Reply::Lost(broken)) => Err(broken),
            _ => Err(Broken(format!("{address}, which the sentinels call master, is none"))),
        }
    }

    async fn enter_cluster(addresses: &[Address], endpoint: &Endpoint) -> Result<Self, Broken> {
        let name = "a node of the cluster";
        let unfit = |_: RedisError| Broken("the cluster cannot be prepared for".to_owned());
        let nodes: Vec<_> = addresses
            .iter()
            .map(|address| info(address, endpoint).map_err(unfit))
            .collect::<Result<_, _>>()?;
        let mut builder = ClusterClientBuilder::new(nodes)
            .retries(MOVES_MAX)
            .min_retry_wait(MOVES_WAIT.0)
            .max_retry_wait(MOVES_WAIT.1)
            .connection_timeout(CONNECT)
            .response_timeout(TOPOLOGY)
            .overall_response_timeout(None);
        if let Some(authorities) = &endpoint.authorities {
            let authorities = TlsCertificates::new().root_cert(authorities.clone());
            builder = builder.tls(TlsMode::Secure).certs(authorities);
        }
        let client = builder.build().map_err(unfit)?;
        let connecting = async {
            let connection = client.get_async_generic_connection().await;
            let connection = connection.map_err(|error| match word_of(&error) {
                Some(word) => Broken(refused(&name, &word)),
                None => Broken("no node of the cluster says which of them has what".to_owned()),
            })?;
            let mut link = Self { connection: Connection::Cluster(connection), name: name.into() };
            link.ping().await?;
            Ok(link)
        };
        within(connecting, CONNECT_ALL, &name).await
    }
}

/// Connects and logs in. A server that wants a password, or is still loading its data, says so now.
async fn connect(
    address: &Address,
    login: &Login,
    database: u32,
    endpoint: &Endpoint,
) -> Result<Server, Broken> {
    let failed = |error: RedisError| unreachable(address, &error);
    let stream = Stream::open(address, endpoint.authorities.as_deref()).await?;
    let is_over = stream.is_over();
    // Who waits gives up by a clock of his own.
    let patient = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let who = who(login, database);
    let connected = MultiplexedConnection::new_with_config(&who, stream, patient).await;
    let (mut connection, driver) = connected.map_err(failed)?;
    let driver = Driver::of(driver);
    answer(connection.req_packed_command(&cmd("PING")).await, address)?;
    Ok(Server { connection, _driver: driver, is_over })
}

/// A node of a cluster, as the crate is told of it.
fn info(address: &Address, endpoint: &Endpoint) -> Result<ConnectionInfo, RedisError> {
    let (host, port) = (address.host.to_string(), address.port);
    let to = match endpoint.authorities {
        Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        None => ConnectionAddr::Tcp(host, port),
    };
    Ok(to.into_connection_info()?.set_redis_settings(who(&endpoint.login, 0)))
}

fn who(login: &Login, database: u32) -> RedisConnectionInfo {
    // Not every user may name the library.
    let mut who = RedisConnectionInfo::default().set_db(database.into()).set_skip_set_lib_name();
    if let Some(user) = &login.user {
        who = who.set_username(user);
    }
    if let Some(password) = &login.password {
        who = who.set_password(&**password);
    }
    who
}

async fn ask_sentinel(
    sentinel: &Address,
    login: &Login,
    master: &str,
    endpoint: &Endpoint,
) -> Result<Address, Broken> {
    let mut server = connect(sentinel, login, 0, endpoint).await?;
    let unknown = || Broken(format!("the sentinel {sentinel} knows no master `{master}`"));
    let mut asked = cmd("SENTINEL");
    asked.arg("get-master-addr-by-name").arg(master);
    let told = answer(server.connection.req_packed_command(&asked).await, sentinel)?;
    let Value::Array(list) = told else { return Err(unknown()) };
    let [Value::BulkString(host), Value::BulkString(port)] = &list[..] else { return Err(unknown()) };
    let (host, port) = (std::str::from_utf8(host).ok(), std::str::from_utf8(port).ok());
    host.zip(port).and_then(|(host, port)| Address::said(host, port)).ok_or_else(unknown)
}

/// An answer that is no error.
fn answer(answered: Result<Value, RedisError>, name: &dyn fmt::Display) -> Result<Value, Broken> {
    match said(answered, name) {
        Reply::Answer(answer) => Ok(answer),
        Reply::Refused(word) => Err(Broken(refused(name, &word))),
        Reply::Lost(broken) => Err(broken),
    }
}

fn said(answered: Result<Value, RedisError>, name: &dyn fmt::Display) -> Reply {
    match answered {
        Ok(Value::ServerError(error)) => Reply::Refused(word(error.code())),
        Ok(answer) => Reply::Answer(answer),
        Err(error) => match word_of(&error) {
            Some(word) => Reply::Refused(word),
            None => Reply::Lost(lost(name, &error)),
        },
    }
}

async fn within<T>(
    asked: impl Future<Output = Result<T, Broken>>,
    time: Duration,
    name: &(dyn fmt::Display + Sync),
) -> Result<T, Broken> {
    match tokio::time::timeout(time, asked).await {
        Ok(result) => result,
        Err(_) => Err(Broken(format!("{name} does not answer within {}s", time.as_secs()))),
    }
}
