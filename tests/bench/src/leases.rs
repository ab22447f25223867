//! host-local executed alone, on pools that hold many addresses already. Knows no interface.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::rest::settle;
use crate::rows::{Stage, Times, milliseconds};
use crate::side::{Call, Outcome, Side};
use crate::world::{POOLS, Pod, Subnet};

/// The first address that host-local gives in a subnet: host 1 is the gateway.
const FIRST_HOST: u16 = 2;

/// One side's pool of one row.
pub(crate) struct Leases {
    side: Side,
    network: String,
    subnet: Subnet,
    pool: PathBuf,
    programs: PathBuf,
    /// Number of the last host with an address.
    last_host: u16,
    /// host-local looks at no namespace, but every runtime names one.
    pod: Pod,
    calls: u32,
}

impl Leases {
    /// Fills the pool with `held` addresses of other containers.
    pub(crate) fn prepare(stage: &mut Stage<'_>, side: Side, held: u16) -> Outcome<Self> {
        let subnet = stage.world.subnet()?;
        let network = format!("n{}", subnet.number());
        let pool = Path::new(POOLS).join(&network);
        fs::create_dir_all(&pool)?;
        let last_host = held.checked_add(FIRST_HOST - 1).ok_or("a /16 holds fewer addresses")?;
        for host in FIRST_HOST..=last_host {
            fs::write(pool.join(subnet.host4(host).to_string()), format!("id{host}\r\neth0"))?;
        }
        if held > 0 {
            fs::write(pool.join("last_reserved_ip.0"), subnet.host4(last_host).to_string())?;
        }
        let programs = stage.programs.directory(side).unwrap_or_else(|| stage.programs.floor()).to_owned();
        Ok(Self { side, network, subnet, pool, programs, last_host, pod: stage.world.pod()?, calls: 0 })
    }

    /// One address leased and released, and the pool looked at after each.
    pub(crate) fn round(&mut self, stage: &mut Stage<'_>) -> Outcome<Times> {
        self.calls += 1;
        self.last_host = self.last_host.checked_add(1).ok_or("no address is left")?;
        let owner = format!("{}x{}", self.pod.id, self.calls);
        let expected = self.subnet.host4(self.last_host).to_string();

        let call = self.call("ADD", &owner, &expected);
        let start = Instant::now();
        let output = call.run(&stage.watch)?;
        let add = milliseconds(start);
        settle()?;
        let file = self.pool.join(if self.side == Side::Floor { expected.clone() } else { address(&output)? });
        let content = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        if content != format!("{owner}\r\neth0") {
            return Err(format!("{} holds {content:?}", file.display()).into());
        }

        let call = self.call("DEL", &owner, &expected);
        let start = Instant::now();
        call.run(&stage.watch)?;
        let del = milliseconds(start);
        if file.exists() {
            return Err(format!("after DEL, {} is still there", file.display()).into());
        }
        Ok(vec![("ADD", add), ("DEL", del)])
    }

    fn call(&self, command: &str, owner: &str, floor_address: &str) -> Call {
        if self.side == Side::Floor {
            let verb = if command == "ADD" { "lease" } else { "release" };
            let mut arguments = vec![verb.to_owned(), self.pool.display().to_string(), floor_address.to_owned()];
            if command == "ADD" {
                arguments.push(format!("{owner}\r\neth0"));
            }
            let program = self.programs.clone();
            return Call { program, arguments, environment: Vec::new(), input: Vec::new() };
        }
        let configuration = json!({"cniVersion": "1.0.0", "name": self.network, "type": "bridge",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": self.subnet.text4()}]]}});
        let environment = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", owner.to_owned()),
            ("CNI_NETNS", self.pod.path.display().to_string()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", self.programs.display().to_string()),
        ];
        let input = configuration.to_string().into_bytes();
        Call { program: self.programs.join("host-local"), arguments: Vec::new(), environment, input }
    }

    pub(crate) fn finish(self) -> Outcome<()> {
        Ok(fs::remove_dir_all(&self.pool)?)
    }
}

/// The first address of a result, without its prefix length.
fn address(output: &[u8]) -> Outcome<String> {
    let result: Value = serde_json::from_slice(output)?;
    let address = result.pointer("/ips/0/address").and_then(Value::as_str).ok_or("the result has no address")?;
    Ok(address.split('/').next().unwrap_or(address).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_result() {
        let result = br#"{"cniVersion":"1.0.0","ips":[{"address":"10.9.234.98/16"}],"dns":{}}"#;
        assert_eq!(address(result).unwrap(), "10.9.234.98");
        assert!(address(br#"{"ips":[]}"#).is_err());
    }
}
