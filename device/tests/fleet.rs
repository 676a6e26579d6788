//! A fleet before one hub that is slower than all of it together: what waits between them is a queue of bounded length.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use fieldcast_device::batches::{AckOutcome, BatchKey, SealedInfo};
use fieldcast_device::uplink::{Event, Output, Settings, State, step};
use fieldcast_wire::Epoch;

const MINUTE: i64 = 60_000;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Tick,
    Seal,
    Connected,
    /// An answer over the connection of this number.
    Acked(u32, Option<BatchKey>),
}

struct Device {
    machine: State,
    /// Sealed and not acknowledged, by place.
    buffer: BTreeSet<i64>,
    newest: i64,
    connection: u32,
    ticks: u32,
    wakes_at: i64,
}

/// What was seen in ten minutes.
#[derive(Debug, Clone, Default)]
struct Seen {
    sent: u32,
    /// Written again.
    twice: u32,
    /// The queue was full.
    lost: u32,
    /// Longest that something waited, ms.
    waited: i64,
    connections: u32,
}

fn sealed(order: i64) -> SealedInfo {
    SealedInfo {
        key: BatchKey {
            epoch: Epoch::from_slice(&[1; 16]).unwrap(),
            number: order.unsigned_abs(),
        },
        order,
        bytes: 100,
        first_seq: 1,
        last_seq: 1,
        contested: false,
    }
}

/// A hub that takes `rate` a second, before which up to `room` wait, and which is away for ten minutes after ten.
struct World {
    rate: i64,
    room: usize,
    /// Each device seals a batch so often.
    every: i64,
    devices: Vec<Device>,
    events: BinaryHeap<Reverse<(i64, usize, What)>>,
    waiting: VecDeque<i64>,
    free_at: i64,
    written: BTreeSet<(usize, BatchKey)>,
    seen: Vec<Seen>,
}

impl World {
    /// All devices together seal ten batches a second.
    fn new(rate: i64, room: usize, every: i64) -> Self {
        let mut world = Self {
            rate,
            room,
            every,
            devices: Vec::new(),
            events: BinaryHeap::new(),
            waiting: VecDeque::new(),
            free_at: 0,
            written: BTreeSet::new(),
            seen: Vec::new(),
        };
        for place in (0..every).step_by(100) {
            let n = world.devices.len();
            world.devices.push(Device {
                machine: State::new(Settings::default(), n as u64),
                buffer: BTreeSet::new(),
                newest: 0,
                connection: 0,
                ticks: 0,
                wakes_at: i64::MAX,
            });
            world.events.push(Reverse((place, n, What::Tick)));
            world.events.push(Reverse((place, n, What::Seal)));
        }
        world
    }

    fn run(&mut self, until: i64) {
        while let Some(Reverse((now, n, what))) = self.events.pop() {
            if now >= until {
                return;
            }
            let device = &mut self.devices[n];
            let event = match what {
                What::Tick => {
                    device.ticks += 1;
                    Event::Tick
                }
                What::Seal => {
                    self.events.push(Reverse((now + self.every, n, What::Seal)));
                    device.newest += 1;
                    device.buffer.insert(device.newest);
                    Event::Sealed {
                        newest: device.newest,
                    }
                }
                What::Connected => {
                    device.connection += 1;
                    Event::Connected {
                        newest: device.newest,
                    }
                }
                What::Acked(connection, _) if connection != device.connection => continue,
                What::Acked(_, key) => {
                    if let Some(key) = key {
                        device.buffer.remove(&i64::try_from(key.number).unwrap());
                    }
                    Event::Acked(AckOutcome {
                        done: key.into_iter().collect(),
                        echo: Some(i64::MAX),
                        ..AckOutcome::default()
                    })
                }
            };
            self.tell(n, event, now);
            let device = &mut self.devices[n];
            let wakes_at = device.machine.wake_at();
            assert!(wakes_at >= now, "late: {:?}", device.machine);
            if wakes_at < device.wakes_at || device.wakes_at <= now {
                device.wakes_at = wakes_at;
                self.events.push(Reverse((wakes_at, n, What::Tick)));
            }
        }
    }

    fn tell(&mut self, n: usize, event: Event, now: i64) {
        let mut outputs = VecDeque::from(step(&mut self.devices[n].machine, event, now));
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Connect => {
                    self.seen(now).connections += 1;
                    self.events.push(Reverse((now + 50, n, What::Connected)));
                }
                Output::Disconnect => self.devices[n].connection += 1,
                Output::Page { lane, after, limit } => {
                    let device = &mut self.devices[n];
                    let page = device.buffer.range(after + 1..).take(limit);
                    let batches = page.map(|order| sealed(*order)).collect();
                    let page = Event::Page { lane, batches };
                    outputs.extend(step(&mut device.machine, page, now));
                }
                Output::Sync => self.send(n, None, now),
                Output::Publish { key, .. } => self.send(n, Some(key), now),
            }
        }
    }

    fn send(&mut self, n: usize, key: Option<BatchKey>, now: i64) {
        let connection = self.devices[n].connection;
        if (10 * MINUTE..20 * MINUTE).contains(&now) {
            return;
        }
        let Some(key) = key else {
            // Syncs take another way.
            let answer = What::Acked(connection, None);
            self.events.push(Reverse((now + 200, n, answer)));
            return self.tell(n, Event::Told, now);
        };
        self.waiting.retain(|done| *done > now);
        self.seen(now).sent += 1;
        if self.waiting.len() >= self.room {
            self.seen(now).lost += 1;
            return;
        }
        self.free_at = self.free_at.max(now) + 1_000 / self.rate;
        self.waiting.push_back(self.free_at);
        let (waited, new) = (self.free_at - now, self.written.insert((n, key)));
        let seen = self.seen(now);
        seen.waited = seen.waited.max(waited);
        seen.twice += u32::from(!new);
        let answer = What::Acked(connection, Some(key));
        self.events.push(Reverse((self.free_at + 50, n, answer)));
    }

    fn seen(&mut self, now: i64) -> &mut Seen {
        let place = usize::try_from(now / (10 * MINUTE)).unwrap();
        self.seen
            .resize(self.seen.len().max(place + 1), Seen::default());
        &mut self.seen[place]
    }
}

#[test]
fn a_fleet_comes_to_rest_before_a_hub_that_is_hardly_quicker_than_it() {
    // Ten batches a second, and after the outage 6,000 that wait; 13 a second are written.
    // Of those that seal rarely each asks for itself until it knows how slow the hub is.
    for (room, every, most_lost) in [
        (45, 10_000, 30_000),
        (400, 10_000, 1_500),
        (1_100, 10_000, 1_500),
        (400, 120_000, 45_000),
    ] {
        let mut world = World::new(13, room, every);
        world.run(80 * MINUTE);
        println!("{room} wait, each {every} ms: {:?}", world.seen);
        let (before, after) = (&world.seen[0], &world.seen[7]);
        assert_eq!((before.twice, before.lost), (0, 0));
        assert_eq!((after.twice, after.lost, after.connections), (0, 0, 0));
        assert!((5_900..6_100).contains(&after.sent));
        assert!(after.waited < 15_000);
        let lost: u32 = world.seen.iter().map(|seen| seen.lost).sum();
        assert!(lost < most_lost, "{lost} to a full queue");
        let left: usize = world.devices.iter().map(|d| d.buffer.len()).sum();
        assert!(left <= 2 * world.devices.len(), "{left} wait on devices");
        let ticks = world.devices.iter().map(|d| d.ticks).max();
        assert!(ticks < Some(2_000), "a machine turns in circles: {ticks:?}");
    }
}
