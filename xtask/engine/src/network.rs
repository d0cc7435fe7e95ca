//! The engine's network: a bridge with a range of addresses that nobody else has, and a table of
//! nftables that lets containers out. dockerd itself sets no rules: two would delete each other's.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::host::Claim;
use crate::sandbox::{run, run_anyway};

/// Each is divided among the engines of a host; the first one was set aside for test networks.
const PREFIXES: [[u8; 2]; 3] = [[198, 19], [172, 30], [10, 253]];

/// Makes the bridge $1 with the address $2 and the MTU $3, and the rules $4.
const UP: &str = r#"
set -e
ip link add "$1" type bridge
ip address add "$2" dev "$1"
ip link set "$1" mtu "$3" up
nft "$4"
"#;

/// Removes what [`UP`] made for the engine $1, and the bridges of networks in its range $2.
const DOWN: &str = r#"
nft delete table ip "xtask_engine_$1"
ip link delete "xtask-$1"
[ -z "$2" ] || ip -brief address show to "$2" type bridge | while read -r bridge _; do
    ip link delete "$bridge"
done
"#;

/// A range of 16 networks of 256 addresses for the engine with this number, such as
/// `198.19.0.0/20`, that neither a route nor a name server is in.
pub fn range(number: u8) -> Result<String> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let range = free(number, &routes, &resolv);
    range.context("this host has routes to all address ranges that the engine could use")
}

fn free(number: u8, routes: &str, resolv: &str) -> Option<String> {
    let routes = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // The kernel prints network order as if it were the machine's.
        let bits = |hex| u32::from_str_radix(hex, 16).ok().map(u32::from_be);
        Some((bits(fields.get(1)?)?, bits(fields.get(7)?)?))
    });
    let servers = resolv.lines().filter_map(|line| {
        let server: Ipv4Addr = line.strip_prefix("nameserver")?.trim().parse().ok()?;
        Some((server.to_bits(), u32::MAX))
    });
    // The default route, which has no mask, takes nothing.
    let taken: Vec<(u32, u32)> = routes.filter(|(_, mask)| *mask != 0).chain(servers).collect();
    let mut ranges = PREFIXES.map(|[a, b]| Ipv4Addr::new(a, b, number * 16, 0)).into_iter();
    let is_free = |own: u32| taken.iter().all(|(n, mask)| (n ^ own) & mask & 0xffff_f000 != 0);
    ranges.find(|range| is_free(range.to_bits())).map(|range| format!("{range}/20"))
}

/// The largest packet that fits on its way out: the MTU of the default route's interface.
pub fn mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let mtu = routes.lines().find_map(|line| {
        let (interface, rest) = line.split_once('\t')?;
        let is_default = rest.starts_with("00000000");
        is_default.then(|| fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok())?
    });
    mtu.and_then(|mtu| mtu.trim().parse().ok()).unwrap_or(1500)
}

pub fn bridge(number: u8) -> String {
    format!("xtask-{number}")
}

/// Makes the bridge and the table; first removes those that an engine killed in its clean-up left.
pub fn up(claim: &Claim) -> Result<()> {
    let Claim { number, range, .. } = claim;
    down(claim.command("sh"), *number, "");
    // The bridge's own address, in the range's first network.
    let gateway = range.replace(".0/20", ".1/24");
    let rules = format!(
        "table ip xtask_engine_{number} {{ chain out {{ type nat hook postrouting priority srcnat; \
         ip saddr {range} ip daddr != {range} masquerade; }}; }}"
    );
    let mut up = claim.command("sh");
    up.args(["-c", UP, "sh", &bridge(*number), &gateway, &mtu().to_string(), &rules]);
    run("making a network", &mut up).map(drop)
}

/// Undoes [`up`] by the shell `sh`; the `range` is empty if no network was made in it.
pub fn down(mut sh: Command, number: u8, range: &str) {
    run_anyway(sh.args(["-c", DOWN, "sh", &number.to_string(), range]));
}

#[cfg(test)]
mod tests {
    const HEADER: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";

    fn free(number: u8, routes: &str, resolv: &str) -> Option<String> {
        super::free(number, &format!("{HEADER}{routes}"), resolv)
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_range_avoids_routes_and_name_servers() {
        let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let benchmark = "tun0\t000012C6\t00000000\t0001\t0\t0\t0\t0000FEFF\t0\t0\t0\n";
        assert_eq!(free(0, default, ""), Some("198.19.0.0/20".into()));
        assert_eq!(free(2, default, ""), Some("198.19.32.0/20".into()));
        assert_eq!(free(1, benchmark, ""), Some("172.30.16.0/20".into()));
        assert_eq!(free(1, "", "nameserver 198.19.16.53\n"), Some("172.30.16.0/20".into()));
        assert_eq!(free(2, "", "nameserver 198.19.16.53\n"), Some("198.19.32.0/20".into()));
    }
}
