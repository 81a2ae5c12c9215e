//! Traffic as a base station's gateway sees it: many users behind few rules.
//!
//! A million subscribers have an address each, out of the space for carriers (RFC 6598). They are cut into 50 cells, networks of unequal size.
//! The gateway's policy for each cell is four rules by service: name service, voice and web by the UDP port they come from, and all the rest
//! after them: 200 rules. Rules send to one of [`PORTS_OUT`] ports, and neighbouring cells and services to different ones.
//!
//! Every user has one flow, so a cache of exact flows needs an entry for each user; the 200 rules need no more than 200 wildcarded decisions, if a
//! decision holds no more bits than it has used. That ratio is what this traffic measures. It is the same at every run: numbers come from a
//! generator with a fixed seed, users in an order that visits each once and neighbours far apart.

use crate::blk_load::Random;
use crate::generator::plan::Tuple;
use crate::switch::Rule;
use std::net::Ipv4Addr;

/// The subscribers' space is 2 to this many addresses.
pub const USERS_BITS: u32 = 20;
/// The first subscriber.
pub const FIRST_USER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// Cells.
pub const CELLS: usize = 50;
/// Ports that rules send to: 1 up to this.
pub const PORTS_OUT: u16 = 4;
/// UDP source ports of the services that have a rule: name service, voice, web. Anything else is the rest.
const SERVICES: [u16; 3] = [53, 5004, 443];
/// Where the rest comes from.
const REST: u16 = 9000;
/// Of a hundred users, how many use each service and the rest.
const SHARES: [u64; 4] = [10, 20, 60, 10];
const SEED: u64 = 0x5eed_ba5e;
/// Odd, so that multiplying by it visits every user once; about the golden section, so that neighbours are far apart.
const STRIDE: u32 = 0x9e37_79b1;

/// The cells: first address and bits of the network, in the order of addresses.
pub fn cells() -> Vec<(u32, u8)> {
    let mut random = Random::new(SEED);
    let mut cells = vec![(u32::from(FIRST_USER), (32 - USERS_BITS) as u8)];
    while cells.len() < CELLS {
        // Halve one of the larger half: sizes differ, none is tiny.
        cells.sort_by_key(|(address, bits)| (*bits, *address));
        let chosen = random.below(cells.len().div_ceil(2) as u64) as usize;
        let (address, bits) = cells.swap_remove(chosen);
        cells.push((address, bits + 1));
        cells.push((address | 1 << (31 - bits), bits + 1));
    }
    cells.sort_unstable();
    cells
}

/// The policy: 200 rules from port 0.
pub fn rules() -> Vec<Rule> {
    let services = || SERVICES.map(Some).into_iter().chain([None]);
    let mut rules = Vec::new();
    for (cell, network) in cells().into_iter().enumerate() {
        for (service, port) in services().enumerate() {
            rules.push(Rule {
                priority: u16::from(port.is_none()),
                dst: Some(network),
                udp_src: port,
                to: Some(1 + ((cell + service) as u16 % PORTS_OUT)),
                ..Rule::default()
            });
        }
    }
    rules
}

/// A policy written out: a rule for every address of the space from port 0, which all rules of a cell do alike.
pub fn rules_for_users() -> Vec<Rule> {
    let cells = cells();
    cells
        .iter()
        .enumerate()
        .flat_map(|(cell, (first, bits))| {
            (0..1 << (32 - bits)).map(move |user| Rule {
                dst: Some((first + user, 32)),
                to: Some(1 + cell as u16 % PORTS_OUT),
                ..Rule::default()
            })
        })
        .collect()
}

/// One flow of each of the first `users` users (all of them at most), from a server of the service to the user.
pub fn flows(users: u32) -> Vec<Tuple> {
    let mut random = Random::new(SEED + 1);
    let space = 1u32 << USERS_BITS;
    (0..users.min(space))
        .map(|number| {
            let user = number.wrapping_mul(STRIDE) % space;
            let mut draw = random.below(SHARES.iter().sum());
            let service = SHARES.iter().position(|share| {
                let chosen = draw < *share;
                draw = draw.saturating_sub(*share);
                chosen
            });
            let port = service
                .and_then(|service| SERVICES.get(service))
                .copied()
                .unwrap_or(REST);
            // Servers: a /20 of them.
            let server = u32::from(Ipv4Addr::new(203, 0, 112, 0)) + random.below(4096) as u32;
            Tuple {
                ipv4: [server.into(), (u32::from(FIRST_USER) + user).into()],
                udp: [port, 32768 + random.below(28_232) as u16],
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn holds(network: (u32, u8), address: Ipv4Addr) -> bool {
        (u32::from(address) ^ network.0) >> (32 - network.1) == 0
    }

    #[test]
    fn the_cells_are_the_whole_space_once() {
        let cells = cells();
        assert_eq!(cells.len(), CELLS);
        let mut next = u32::from(FIRST_USER);
        for (address, bits) in &cells {
            assert_eq!(*address, next);
            next += 1 << (32 - bits);
        }
        assert_eq!(next, u32::from(FIRST_USER) + (1 << USERS_BITS));
        let sizes: HashSet<u8> = cells.iter().map(|(_, bits)| *bits).collect();
        assert!(sizes.len() >= 3, "{sizes:?}");
    }

    #[test]
    fn a_policy_written_out_has_a_rule_for_every_user() {
        let rules = rules_for_users();
        let addresses: HashSet<_> = rules.iter().map(|rule| rule.dst).collect();
        assert_eq!(addresses.len(), 1 << USERS_BITS);
        assert_eq!(rules[0].dst, Some((u32::from(FIRST_USER), 32)));
    }

    #[test]
    fn there_are_200_rules_and_every_user_meets_the_one_of_its_cell_and_service() {
        let rules = rules();
        assert_eq!(rules.len(), 200);
        let flows = flows(1 << USERS_BITS);
        let users: HashSet<Ipv4Addr> = flows.iter().map(|flow| flow.ipv4[1]).collect();
        assert_eq!(users.len(), 1 << USERS_BITS, "each user once");
        let mut met = vec![0u32; rules.len()];
        // Looking at 200 rules for a million users takes a while; a part of them is enough.
        for flow in flows.iter().step_by(16) {
            let matching = rules.iter().enumerate().filter(|(_, rule)| {
                rule.dst.is_some_and(|network| holds(network, flow.ipv4[1]))
                    && rule.udp_src.is_none_or(|port| port == flow.udp[0])
            });
            let (place, rule) = matching.min_by_key(|(_, rule)| rule.priority).unwrap();
            assert_eq!(rule.udp_src.is_some(), SERVICES.contains(&flow.udp[0]));
            met[place] += 1;
        }
        assert!(met.iter().all(|count| *count > 0), "{met:?}");
        let web: u32 = rules
            .iter()
            .zip(&met)
            .filter(|(rule, _)| rule.udp_src == Some(443))
            .map(|(_, count)| count)
            .sum();
        let part = f64::from(web) / f64::from(met.iter().sum::<u32>());
        assert!((part - 0.6).abs() < 0.01, "{part}");
    }

    #[test]
    fn it_is_the_same_at_every_run() {
        let flows = flows(3);
        assert_eq!(flows.len(), 3);
        assert_eq!(flows[0].ipv4[1], FIRST_USER);
        assert_eq!(flows[1].ipv4[1], Ipv4Addr::new(100, 71, 121, 177));
    }
}
