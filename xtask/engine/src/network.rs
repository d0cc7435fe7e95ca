//! The engine's network: a bridge with a range of addresses that nobody else has, and a table of
//! nftables that lets containers out. The daemon itself sets no rules: two of them would delete
//! each other's.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use crate::sandbox::{Programs, run, run_anyway};
use crate::shared::MAX_ENGINES;

/// Each of these is divided among the engines of a host; the first one was set aside for test
/// networks.
const PREFIXES: [[u8; 2]; 3] = [[198, 19], [172, 30], [10, 253]];

const RANGE_MASK: u32 = 0xffff_f000;
/// How far apart the ranges of a prefix are in its third byte: that many engines share it.
const RANGE_STEP: u8 = u8::MAX / MAX_ENGINES + 1;

/// The addresses of an engine's networks: 16 networks of 256 addresses.
#[derive(Clone, Copy)]
pub struct Range(u32);

impl Range {
    /// A range for the engine with this number that neither a route nor a name server is in.
    pub fn choose(number: u8) -> Result<Range> {
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Range::free(number, &routes, &resolv).with_context(|| {
            format!("all address ranges for engine {number} are in use by routes of this host")
        })
    }

    fn free(number: u8, routes: &str, resolv: &str) -> Option<Range> {
        let server = |line: &str| line.strip_prefix("nameserver")?.trim().parse::<Ipv4Addr>().ok();
        let servers = resolv.lines().filter_map(server).map(|server| (server.to_bits(), u32::MAX));
        let taken: Vec<(u32, u32)> = parse_routes(routes).chain(servers).collect();
        let mut ranges =
            PREFIXES.map(|[a, b]| u32::from_be_bytes([a, b, number * RANGE_STEP, 0])).into_iter();
        let is_taken = |own: u32| taken.iter().any(|(n, mask)| (n ^ own) & mask & RANGE_MASK == 0);
        ranges.find(|range| !is_taken(*range)).map(Range)
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/20", Ipv4Addr::from_bits(self.0))
    }
}

/// The destinations and masks of the kernel's routes, the default route aside.
fn parse_routes(routes: &str) -> impl Iterator<Item = (u32, u32)> {
    routes.lines().skip(1).filter_map(|line| {
        let field = |number| {
            let hex = line.split_whitespace().nth(number)?;
            // The kernel prints network order as if it were the machine's.
            u32::from_str_radix(hex, 16).ok().map(u32::from_be)
        };
        let (net, mask) = (field(1)?, field(7)?);
        (mask != 0).then_some((net, mask))
    })
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

fn table(number: u8) -> String {
    format!("xtask_engine_{number}")
}

/// Makes the bridge and the table; first removes those that an engine killed in its clean-up left.
pub fn up(programs: &Programs, number: u8, range: Range) -> Result<()> {
    down(programs, number, "");
    let (bridge, table, mtu) = (bridge(number), table(number), mtu().to_string());
    // The bridge's own address, in the range's first network.
    let gateway = format!("{}/24", Ipv4Addr::from_bits(range.0 + 1));
    for arguments in [
        vec!["link", "add", &bridge, "type", "bridge"],
        vec!["address", "add", &gateway, "dev", &bridge],
        vec!["link", "set", &bridge, "mtu", &mtu, "up"],
    ] {
        run("making a network bridge", programs.command("ip").args(arguments))?;
    }
    let rules = format!(
        "table ip {table} {{ chain out {{ type nat hook postrouting priority srcnat; \
         ip saddr {range} ip daddr != {range} masquerade; }}; }}"
    );
    run("letting containers out", programs.command("nft").arg(rules)).map(drop)
}

/// Removes the bridge and the table of the engine with this number, and the bridges of networks
/// that were made in its `range`, which is empty if it had none yet.
pub fn down(programs: &Programs, number: u8, range: &str) {
    run_anyway(programs.command("nft").args(["delete", "table", "ip", &table(number)]));
    run_anyway(programs.command("ip").args(["link", "delete", &bridge(number)]));
    if !range.is_empty() {
        let show = ["-brief", "address", "show", "to", range, "type", "bridge"];
        let bridges = run_anyway(programs.command("ip").args(show));
        for bridge in bridges.lines().filter_map(|line| line.split_whitespace().next()) {
            run_anyway(programs.command("ip").args(["link", "delete", bridge]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Range;

    const HEADER: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";

    fn free(number: u8, routes: &str, resolv: &str) -> Option<String> {
        Range::free(number, &format!("{HEADER}{routes}"), resolv).map(|range| range.to_string())
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
