//! The ports that the agent opens: no two of them may be one, or it does not start.

use std::net::{IpAddr, SocketAddr};

use super::{Findings, quoted};
use crate::config::schema;

/// Those that are known so far.
#[derive(Default)]
pub(super) struct Ports(Vec<Port>);

/// A port, with the key that names it.
struct Port {
    key: String,
    address: SocketAddr,
    /// Whether `[::]` takes IPv4 as well. The swarm opens each family by itself.
    takes_both: bool,
}

impl Ports {
    /// Those of the swarm, if the agent is a member of one. What is no address is a problem of `swarm.listen`.
    pub fn of_swarm(swarm: &schema::Swarm) -> Self {
        let mut ports = Vec::new();
        if swarm.secret_file.is_some() {
            for (key, number) in [("swarm.port", swarm.port), ("swarm.data_port", swarm.data_port)] {
                let ips = swarm.listen.iter().filter_map(|text| text.parse::<IpAddr>().ok());
                ports.extend(ips.map(|ip| Port {
                    key: key.to_owned(),
                    address: SocketAddr::new(ip, number),
                    takes_both: false,
                }));
            }
        }
        Ports(ports)
    }

    /// Adds one for clients or watchers, and tells if another one is in its way.
    pub fn take(&mut self, key: &str, address: SocketAddr, found: &mut Findings<'_, '_>) {
        let port = Port { key: key.to_owned(), address, takes_both: true };
        if let Some(other) = self.0.iter().find(|other| other.collides_with(&port)) {
            let remedy = format!(
                "collides with {}, which takes {}; choose another port for one of them",
                other.key, other.address
            );
            found.add(key, Some(quoted(&address.to_string())), remedy);
        }
        self.0.push(port);
    }
}

impl Port {
    fn collides_with(&self, other: &Port) -> bool {
        let number = self.address.port();
        // Port 0 is a new port each time.
        number != 0
            && number == other.address.port()
            && (self.address == other.address || self.is_around(other) || other.is_around(self))
    }

    /// Whether it is at every address of this machine that the other one can be at.
    fn is_around(&self, other: &Port) -> bool {
        let is_for_both = self.takes_both && self.address.is_ipv6();
        let is_of_its_family = self.address.is_ipv4() == other.address.is_ipv4();
        self.address.ip().is_unspecified() && (is_for_both || is_of_its_family)
    }
}
