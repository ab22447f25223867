//! What of the node's cards its kubelet is offered: which device belongs to which resource, how it is, what a container of it gets.
//! It knows files and values, not how they are told to the kubelet.

mod answer;
mod cdi;
mod choice;
mod clerk;
mod lookout;
mod stock;

pub use answer::{Answer, Node};
pub use clerk::Clerk;
pub use lookout::{LOOK_EVERY, Lookout, run};
pub use stock::{Ailment, Besides, Device, Shelf, Stock};

#[cfg(test)]
pub(crate) mod fixture {
    //! Functions of a card, and configurations, as tests want them.

    use backends::sysfs::NetworkFunction;
    use serde_json::{Value, json};

    use crate::config::daemon::DaemonConfig;
    use crate::config::devices::Devices;

    /// The function of this number of the card eth0 (0000:01:00.0).
    pub(crate) fn function(index: u32) -> NetworkFunction {
        NetworkFunction {
            address: format!("0000:01:10.{index}").parse().unwrap(),
            vendor: "8086".to_owned(),
            device: "10ca".to_owned(),
            driver: Some("igbvf".to_owned()),
            acpi_index: None,
            numa_node: Some(1),
            interfaces: vec![format!("eth{}", index + 1)],
            link_type: Some("ether".to_owned()),
            rdma: Vec::new(),
            partition: None,
            vdpa: None,
            pf: "0000:01:00.0".parse().unwrap(),
            pf_interface: Some("eth0".to_owned()),
            is_pf_up: Some(true),
            index: Some(index),
            functions: 0,
        }
    }

    /// The card itself.
    pub(crate) fn card(functions: u32) -> NetworkFunction {
        NetworkFunction {
            address: "0000:01:00.0".parse().unwrap(),
            device: "10c9".to_owned(),
            driver: Some("igb".to_owned()),
            interfaces: vec!["eth0".to_owned()],
            index: None,
            functions,
            ..function(0)
        }
    }

    /// What this says of `devices`.
    pub(crate) fn devices(resources: &Value) -> Devices {
        let text = json!({"devices": {"resourcePrefix": "a.b", "resourceList": resources}}).to_string();
        DaemonConfig::parse(text.as_bytes()).unwrap().devices.unwrap()
    }
}
