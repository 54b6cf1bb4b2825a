//! One connection to the server: found, encrypted, logged in, and asked in batches.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use openssl::ssl::SslConnector;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::config::{Address, Endpoint, Login, Way};
use super::resp::{self, Value};

/// How long one sentinel, or the server, may take to be connected to.
const CONNECT: Duration = Duration::from_secs(1);
/// Room for answers.
const BUFFER: usize = 4 << 10;

/// A connection. After an error it is of no use any more.
pub(super) struct Connection {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    buffer: BytesMut,
}

/// Why there is no connection, or none any more, as the log says it. Nothing of it is the server's but the word of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Connection {
    /// Connects to the server, to the one that the sentinels call master, or to a node of the cluster.
    ///
    /// # Errors
    /// It cannot be reached, or does not take us.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<(Self, Address), Broken> {
        let mut last = Broken("no server is named".to_owned());
        match &endpoint.way {
            Way::Server(address) => Ok((Self::enter(address, endpoint).await?, address.clone())),
            Way::Cluster(addresses) => {
                for address in addresses {
                    match Self::enter(address, endpoint).await {
                        Ok(connection) => return Ok((connection, address.clone())),
                        Err(broken) => last = broken,
                    }
                }
                Err(last)
            }
            Way::Sentinels { addresses, master, login } => {
                for sentinel in addresses {
                    let asked = ask_sentinel(sentinel, login, master, endpoint.tls.as_ref());
                    let found = match within(asked, sentinel).await {
                        Ok(address) => match Self::enter_master(&address, endpoint).await {
                            Ok(connection) => return Ok((connection, address)),
                            Err(broken) => broken,
                        },
                        Err(broken) => broken,
                    };
                    last = found;
                }
                Err(last)
            }
        }
    }

    /// Sends what was written by [`resp::push_command`], and reads as many answers as there are commands in it.
    pub(super) async fn round(&mut self, commands: &[u8], answers: usize) -> Result<Vec<Value>, Broken> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Broken("it has closed the connection".to_owned()),
            _ => Broken(format!("its connection has failed: {error}")),
        };
        self.writer.write_all(commands).await.map_err(failed)?;
        self.writer.flush().await.map_err(failed)?;
        let mut read = Vec::with_capacity(answers);
        for _ in 0..answers {
            read.push(resp::read(&mut self.reader, &mut self.buffer).await.map_err(failed)?);
        }
        Ok(read)
    }

    /// Connects to this server and logs in.
    pub(super) async fn enter(address: &Address, endpoint: &Endpoint) -> Result<Self, Broken> {
        let entering = async {
            let mut connection = Self::connect(address, endpoint.tls.as_ref()).await?;
            connection.log_in(&endpoint.login, address).await?;
            if endpoint.database != 0 {
                let database = endpoint.database.to_string();
                connection.command(&[b"SELECT", database.as_bytes()], address).await?;
            }
            Ok(connection)
        };
        within(entering, address).await
    }

    /// As [`Connection::enter`]; what is no master any more does not take what is written.
    async fn enter_master(address: &Address, endpoint: &Endpoint) -> Result<Self, Broken> {
        let mut connection = Self::enter(address, endpoint).await?;
        let role = within(connection.command(&[b"ROLE"], address), address).await?;
        match role {
            Value::List(list) if list.first() == Some(&Value::Text(b"master".to_vec())) => Ok(connection),
            _ => Err(Broken(format!("{address}, which the sentinels call master, is none"))),
        }
    }

    async fn connect(address: &Address, tls: Option<&SslConnector>) -> Result<Self, Broken> {
        let unreachable = |error: io::Error| Broken(format!("{address} cannot be reached: {error}"));
        let stream = TcpStream::connect((&*address.host, address.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let Some(tls) = tls else { return Ok(Self::over(stream)) };
        let refused =
            |error: &dyn fmt::Display| Broken(format!("{address} cannot be spoken to in TLS: {error}"));
        let ssl = tls
            .configure()
            .and_then(|ssl| {
                ssl.use_server_name_indication(address.host.parse::<IpAddr>().is_err())
                    .into_ssl(&address.host)
            })
            .map_err(|error| refused(&error))?;
        let mut stream = SslStream::new(ssl, stream).map_err(|error| refused(&error))?;
        Pin::new(&mut stream).connect().await.map_err(|error| refused(&error))?;
        Ok(Self::over(stream))
    }

    fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let buffer = BytesMut::with_capacity(BUFFER);
        Self { reader: Box::new(reader), writer: Box::new(writer), buffer }
    }

    async fn log_in(&mut self, login: &Login, address: &Address) -> Result<(), Broken> {
        match (&login.user, &login.password) {
            (Some(user), Some(password)) => {
                self.command(&[b"AUTH", user.as_bytes(), password.as_bytes()], address).await?;
            }
            (None, Some(password)) => {
                self.command(&[b"AUTH", password.as_bytes()], address).await?;
            }
            // A server that wants a password says so now, and one that is still loading its data too.
            (_, None) => {
                self.command(&[b"PING"], address).await?;
            }
        }
        Ok(())
    }

    async fn command(&mut self, words: &[&[u8]], address: &Address) -> Result<Value, Broken> {
        let mut sent = zeroize::Zeroizing::new(Vec::with_capacity(2 << 10));
        resp::push_command(&mut sent, words);
        let answer = self.round(&sent, 1).await?.pop().unwrap_or(Value::Nothing);
        match answer {
            Value::Error(word) => Err(Broken(refused(address, &word))),
            answer => Ok(answer),
        }
    }
}

/// What the word of an error means.
pub(super) fn refused(address: &dyn fmt::Display, word: &str) -> String {
    let meaning = match word {
        "WRONGPASS" => "user or password are wrong",
        "NOAUTH" => "it wants a password: write `server.fleet.password`",
        "NOPERM" => "the user may not do what is needed: EVAL, EVALSHA and what the scripts do",
        "LOADING" => "it is loading its data",
        "READONLY" => "it is a replica, which takes nothing",
        "CLUSTERDOWN" => "the cluster is not whole",
        "MOVED" => "it is one of a cluster: write `server.fleet.cluster`",
        "OOM" => "it has no memory left",
        "MISCONF" => "it cannot write its data to its disk",
        _ => "it refuses what is asked",
    };
    format!("{address} says {word}: {meaning}")
}

async fn ask_sentinel(
    sentinel: &Address,
    login: &Login,
    master: &str,
    tls: Option<&SslConnector>,
) -> Result<Address, Broken> {
    let mut connection = Connection::connect(sentinel, tls).await?;
    connection.log_in(login, sentinel).await?;
    let words: &[&[u8]] = &[b"SENTINEL", b"get-master-addr-by-name", master.as_bytes()];
    let unknown = || Broken(format!("the sentinel {sentinel} knows no master `{master}`"));
    let Value::List(list) = connection.command(words, sentinel).await? else { return Err(unknown()) };
    let [Value::Text(host), Value::Text(port)] = &list[..] else { return Err(unknown()) };
    let (host, port) = (std::str::from_utf8(host).ok(), std::str::from_utf8(port).ok());
    host.zip(port).and_then(|(host, port)| Address::said(host, port)).ok_or_else(unknown)
}

async fn within<T>(asked: impl Future<Output = Result<T, Broken>>, address: &Address) -> Result<T, Broken> {
    match tokio::time::timeout(CONNECT, asked).await {
        Ok(result) => result,
        Err(_) => Err(Broken(format!("{address} does not answer within {}s", CONNECT.as_secs()))),
    }
}
