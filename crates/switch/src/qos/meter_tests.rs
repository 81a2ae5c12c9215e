//! Meters against the text of the RFCs: token by token, tick by tick, and their long-run rates.

use proptest::prelude::*;

use super::*;

const HZ: u64 = 1_000;

/// RFC 2697 section 3 and RFC 2698 section 3, with a token being the smallest unit (a byte is `8 * HZ` of them).
struct Naive {
    profile: Profile,
    committed: i64,
    second: i64,
    now: u64,
}

fn value(rate: Rate) -> i64 {
    match rate {
        Rate::Bits(rate) | Rate::Packets(rate) => rate as i64,
    }
}

fn scale(rate: Rate) -> i64 {
    match rate {
        Rate::Bits(_) => 8 * HZ as i64,
        Rate::Packets(_) => HZ as i64,
    }
}

impl Naive {
    fn new(profile: Profile) -> Naive {
        let (committed, second) = match profile.marker {
            Marker::SingleRate { cir, cbs, ebs } => {
                (cbs as i64 * scale(cir), ebs as i64 * scale(cir))
            }
            Marker::TwoRate { cir, cbs, pbs, .. } => {
                (cbs as i64 * scale(cir), pbs as i64 * scale(cir))
            }
        };
        Naive {
            profile,
            committed,
            second,
            now: 0,
        }
    }

    fn run_to(&mut self, now: u64) {
        while self.now < now {
            self.now += 1;
            match self.profile.marker {
                Marker::SingleRate { cir, cbs, ebs } => {
                    for _ in 0..value(cir) {
                        if self.committed < cbs as i64 * scale(cir) {
                            self.committed += 1;
                        } else if self.second < ebs as i64 * scale(cir) {
                            self.second += 1;
                        }
                    }
                }
                Marker::TwoRate { cir, cbs, pir, pbs } => {
                    self.committed = (self.committed + value(cir)).min(cbs as i64 * scale(cir));
                    self.second = (self.second + value(pir)).min(pbs as i64 * scale(pir));
                }
            }
        }
    }

    fn colour(&mut self, len: u32, input: Colour, now: u64) -> Colour {
        self.run_to(now);
        let aware = self.profile.colour_aware;
        match self.profile.marker {
            Marker::SingleRate { cir, .. } => {
                let b = if matches!(cir, Rate::Bits(_)) {
                    i64::from(len) * scale(cir)
                } else {
                    scale(cir)
                };
                if (!aware || input == Colour::Green) && self.committed - b >= 0 {
                    self.committed -= b;
                    Colour::Green
                } else if (!aware || input != Colour::Red) && self.second - b >= 0 {
                    self.second -= b;
                    Colour::Yellow
                } else {
                    Colour::Red
                }
            }
            Marker::TwoRate { cir, .. } => {
                let b = if matches!(cir, Rate::Bits(_)) {
                    i64::from(len) * scale(cir)
                } else {
                    scale(cir)
                };
                if (aware && input == Colour::Red) || self.second - b < 0 {
                    Colour::Red
                } else if (aware && input == Colour::Yellow) || self.committed - b < 0 {
                    self.second -= b;
                    Colour::Yellow
                } else {
                    self.committed -= b;
                    self.second -= b;
                    Colour::Green
                }
            }
        }
    }
}

fn profiles() -> impl Strategy<Value = Profile> {
    let marker = prop_oneof![
        (1_000u64..9_000, 0u64..300, 0u64..300)
            .prop_filter("a bucket", |(_, c, e)| c + e > 0)
            .prop_map(|(cir, cbs, ebs)| Marker::SingleRate {
                cir: Rate::Bits(cir),
                cbs,
                ebs
            }),
        (1u64..3_000, 1u64..5, 0u64..5).prop_map(|(cir, cbs, ebs)| Marker::SingleRate {
            cir: Rate::Packets(cir),
            cbs,
            ebs
        }),
        (1_000u64..9_000, 1u64..300, 0u64..9_000, 1u64..300).prop_map(|(cir, cbs, more, pbs)| {
            Marker::TwoRate {
                cir: Rate::Bits(cir),
                cbs,
                pir: Rate::Bits(cir + more),
                pbs,
            }
        }),
        (1u64..3_000, 1u64..5, 0u64..3_000, 1u64..5).prop_map(|(cir, cbs, more, pbs)| {
            Marker::TwoRate {
                cir: Rate::Packets(cir),
                cbs,
                pir: Rate::Packets(cir + more),
                pbs,
            }
        }),
    ];
    (marker, any::<bool>()).prop_map(|(marker, colour_aware)| Profile {
        marker,
        colour_aware,
    })
}

fn colours() -> impl Strategy<Value = Colour> {
    prop_oneof![Just(Colour::Green), Just(Colour::Yellow), Just(Colour::Red)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_colour_is_that_of_the_standard(
        profile in profiles(),
        frames in prop::collection::vec((0u64..20, 0u32..200, colours()), 1..60),
    ) {
        let mut meter = Meter::new(&profile, HZ, 0).unwrap();
        let mut naive = Naive::new(profile);
        let mut now = 0;
        for (gap, len, input) in frames {
            now += gap;
            prop_assert_eq!(meter.colour(len, input, now), naive.colour(len, input, now));
        }
    }
}

/// Offers `offered` bits per second of 1000-byte frames for `seconds` and returns the bits per second that came out in each colour.
fn long_run(marker: Marker, offered: u64, seconds: u64) -> [f64; 3] {
    const NS: u64 = 1_000_000_000;
    let profile = Profile {
        marker,
        colour_aware: false,
    };
    let mut meter = Meter::new(&profile, NS, 0).unwrap();
    let mut bits = [0u64; 3];
    for i in 0..offered * seconds / 8_000 {
        let now = u128::from(i) * 8_000 * u128::from(NS) / u128::from(offered);
        bits[meter.colour(1000, Colour::Green, now as u64) as usize] += 8_000;
    }
    bits.map(|b| b as f64 / seconds as f64)
}

#[test]
fn long_run_rates_are_those_of_the_profile() {
    let (cir, pir) = (Rate::Bits(3_333_333), Rate::Bits(7_777_777));
    let [green, yellow, red] = long_run(
        Marker::TwoRate {
            cir,
            cbs: 2_000,
            pir,
            pbs: 2_000,
        },
        20_000_000,
        60,
    );
    assert!((green / 3_333_333.0 - 1.0).abs() < 0.001, "{green}");
    assert!(
        ((green + yellow) / 7_777_777.0 - 1.0).abs() < 0.001,
        "{yellow}"
    );
    assert!(((green + yellow + red) / 20_000_000.0 - 1.0).abs() < 0.001);
    let [green, yellow, _] = long_run(
        Marker::SingleRate {
            cir,
            cbs: 2_000,
            ebs: 100_000,
        },
        20_000_000,
        60,
    );
    assert!((green / 3_333_333.0 - 1.0).abs() < 0.001, "{green}");
    assert!(
        yellow * 60.0 / 8.0 <= 100_000.0,
        "the excess bucket is filled only when the other is full"
    );
}

#[test]
fn slowest_and_fastest_rates_hold() {
    // 1 kbit/s looked at every 100 ns for a while: no credit is lost to rounding.
    let marker = Marker::SingleRate {
        cir: Rate::Bits(1_000),
        cbs: 1,
        ebs: 0,
    };
    let profile = Profile {
        marker,
        colour_aware: false,
    };
    let mut meter = Meter::new(&profile, 1_000_000_000, 0).unwrap();
    let green = (0..1_000_000u64)
        .filter(|i| meter.colour(1, Colour::Green, i * 100) == Colour::Green)
        .count();
    assert_eq!(green, 13, "a full bucket and 12.5 bytes in 0.1 s");
    // 400 Gbit/s on a 2.5 GHz clock is 20 bytes a tick.
    let marker = Marker::SingleRate {
        cir: Rate::Bits(400_000_000_000),
        cbs: 1_500,
        ebs: 0,
    };
    let profile = Profile {
        marker,
        colour_aware: false,
    };
    let mut meter = Meter::new(&profile, 2_500_000_000, 0).unwrap();
    assert!((0..100_000u64).all(|i| meter.colour(1_500, Colour::Green, i * 75) == Colour::Green));
    assert_eq!(
        meter.colour(1_500, Colour::Green, 100_000 * 75 - 1),
        Colour::Red,
        "one tick early"
    );
}

#[test]
fn profiles_that_cannot_be_are_refused() {
    let meter = |marker| {
        Meter::new(
            &Profile {
                marker,
                colour_aware: true,
            },
            HZ,
            0,
        )
        .unwrap_err()
    };
    let two = |cir, cbs, pir, pbs| Marker::TwoRate { cir, cbs, pir, pbs };
    assert_eq!(
        meter(two(Rate::Bits(2_000), 1, Rate::Bits(1_000), 1)),
        QosError::PeakBelowCommitted {
            peak: 1_000,
            committed: 2_000
        }
    );
    assert!(matches!(
        meter(two(Rate::Bits(2_000), 1, Rate::Packets(9_000), 1)),
        QosError::PeakBelowCommitted { .. }
    ));
    assert_eq!(
        meter(two(Rate::Bits(2_000), 0, Rate::Bits(2_000), 1)),
        QosError::Burst(0)
    );
    let (cir, cbs, ebs) = (Rate::Packets(5), 0, 0);
    assert_eq!(
        meter(Marker::SingleRate { cir, cbs, ebs }),
        QosError::Burst(0)
    );
}
