//! The connections to a store: one, or one to each node of a cluster that has been needed.
//!
//! Which node has a key's slot is learned from what a node says that has it no more (`MOVED`): the first question of a slot may take
//! two ways. When any node is lost all connections are, and what was learned with them.

use std::collections::HashMap;

use super::config::{Address, Endpoint, Way};
use super::connection::{Broken, Connection};
use super::resp::Value;

/// The most nodes of a cluster that are spoken to.
const NODES_MAX: usize = 256;
/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// The connections.
pub(super) struct Link {
    /// Who is asked about what no other is known to have.
    home: Address,
    connections: HashMap<Address, Connection>,
    slots: HashMap<u16, Address>,
    is_cluster: bool,
}

impl Link {
    /// Connects to one that is there.
    ///
    /// # Errors
    /// None is.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, Broken> {
        let (connection, home) = Connection::open(endpoint).await?;
        let connections = HashMap::from([(home.clone(), connection)]);
        let is_cluster = matches!(endpoint.way, Way::Cluster(_));
        Ok(Self { home, connections, slots: HashMap::new(), is_cluster })
    }

    /// Who is asked about what belongs to nobody.
    pub(super) fn home(&self) -> &Address {
        &self.home
    }

    /// Who is asked about this key.
    pub(super) fn of(&self, key: &[u8]) -> &Address {
        match self.is_cluster {
            true => self.slots.get(&slot(key)).unwrap_or(&self.home),
            false => &self.home,
        }
    }

    /// Somebody has said who has a slot.
    ///
    /// # Errors
    /// There is no cluster as far as we know, or it says what cannot be.
    pub(super) fn learn(&mut self, slot: u16, to: &str) -> Result<(), Broken> {
        if !self.is_cluster {
            return Err(Broken(super::connection::refused(&self.home, "MOVED")));
        }
        let odd = || Broken("a node of the cluster says of a slot what cannot be".to_owned());
        let (host, port) = to.rsplit_once(':').ok_or_else(odd)?;
        let address = Address::said(host.trim_matches(['[', ']']), port).filter(|_| slot < SLOTS);
        self.slots.insert(slot, address.ok_or_else(odd)?);
        Ok(())
    }

    /// As [`Connection::round`], with this server.
    pub(super) async fn round(
        &mut self,
        endpoint: &Endpoint,
        address: &Address,
        commands: &[u8],
        answers: usize,
    ) -> Result<Vec<Value>, Broken> {
        if !self.connections.contains_key(address) {
            if self.connections.len() >= NODES_MAX {
                return Err(Broken(format!("the cluster has more than {NODES_MAX} nodes")));
            }
            let connection = Connection::enter(address, endpoint).await?;
            self.connections.insert(address.clone(), connection);
        }
        match self.connections.get_mut(address) {
            Some(connection) => connection.round(commands, answers).await,
            None => Ok(Vec::new()),
        }
    }
}

/// CRC-16/XMODEM, as the specification of clusters has it. Our keys have no `{…}`.
pub(super) fn slot(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of CRC-16/XMODEM is 0x31c3.
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!([slot(b"foo"), slot(b"")], [12_182, 0]);
    }
}
