//! What goes wrong, and when: drawn from the seed, so that a failing seed replays exactly. A first phase with faults,
//! a second one in which everything heals and everything must come to its end.
//! Must not know: what the engine should make of it.

use saltpeter::config::Success;
use saltpeter::engine::event::Ask;
use saltpeter::engine::record::{MachineStage, RunStage};
use saltpeter::protocol::{OutputBody, SessionKey, WrapperBody, WrapperFrame};

use crate::network::Owner;
use crate::rng::Rng;
use crate::setup::{JobSetup, Kind, Machine};
use crate::storage::Full;
use crate::trace;
use crate::world::{Action, World};

/// One thing that happens to the installation.
#[derive(Clone, Debug)]
pub enum Fault {
    Crash,
    CrashAmidEffects,
    Shutdown,
    Stall,
    StepWall,
    /// The wall clock is years ahead, or has not been set, for a while.
    Lie,
    LieOver(i64),
    CutSome,
    CutOff,
    Reachable(usize),
    KillWrapper,
    StopWrapper,
    GoOn(usize),
    Freeze,
    MachineUp(usize),
    MachineDown,
    Disk(Full),
    Slow(bool),
    Squeeze,
    SqueezeOver,
    Run,
    Kill,
    Pause {
        job: usize,
        ms: u64,
    },
    Edit,
    Maintenance,
    MaintenanceOver,
    Intruder,
    Heal,
    KillAll,
}

/// How a seed's world is made.
pub struct Plan {
    pub faults_end_ms: u64,
    /// Everything must have ended by then.
    pub bound_ms: u64,
}

fn draw_jobs(rng: &mut Rng, calm_end: bool, machines: &[Machine]) -> Vec<JobSetup> {
    let kinds = [Kind::OursJob, Kind::OursJob, Kind::OursEnv, Kind::Python];
    (0..rng.range(1, 4))
        .map(|n| {
            let mut job = JobSetup::new(&format!("job{n}"), *rng.pick(&kinds));
            let (sec, min) = match rng.below(6) {
                0 => ("*/10", "*"),
                1 => ("30", "*"),
                2 => ("0", "*"),
                3 => ("0", "*/2"),
                4 => ("15", "*/5"),
                _ => ("0", "0"),
            };
            (job.sec, job.min, job.hour) = (sec.into(), min.into(), "*".into());
            job.timeout_s = if calm_end {
                *rng.pick(&[5, 30, 120])
            } else {
                *rng.pick(&[0, 0, 5, 30, 120, 600, 3600])
            };
            job.allow_overlap = rng.chance(200);
            if rng.chance(250) {
                job.batch_size = rng.range(1, 3) as usize;
            }
            if rng.chance(200) {
                job.number_of_targets = rng.range(1, 3) as usize;
            }
            if rng.chance(150) {
                job.output_limit_bytes = *rng.pick(&[600, 4_000, 20_000]);
            }
            if rng.chance(100) {
                job.start_deadline_s = None;
            }
            if rng.chance(300) {
                let count = rng.range(1, machines.len() as u64) as usize;
                job.targets = machines.iter().take(count).map(|m| m.name.clone()).collect();
            }
            job
        })
        .collect()
}

/// Makes the world of a seed.
pub fn build(seed: u64) -> (World, Plan) {
    let mut rng = Rng::new(seed ^ 0xfeed_0000);
    let calm_end = rng.chance(300);
    let machines: Vec<Machine> = (0..rng.range(1, 5))
        .map(|n| {
            let mut machine = Machine::new(&format!("web{n:02}"));
            machine.up = !rng.chance(100);
            if rng.chance(400) {
                machine.skew_ms = rng.range(0, 20_000_000) as i64 - 10_000_000;
            }
            machine
        })
        .collect();
    let mut jobs = draw_jobs(&mut rng, calm_end, &machines);
    draw_success(seed, &mut jobs);
    let mut world = World::new(seed, jobs, machines);
    let calm = rng.chance(100);
    let faults_end_ms = rng.range(120_000, 900_000);
    world.executor.chaos = if calm { 0 } else { *rng.pick(&[0, 30, 200]) };
    world.wall_offset_us = rng.below(3_600_000_000) as i64;
    for _ in 0..rng.range(2, 10) {
        let at = rng.range(2_000, faults_end_ms);
        let what = if rng.chance(500) { Fault::Run } else { Fault::Kill };
        world.at(at, Action::Fault(what));
    }
    if !calm {
        for _ in 0..rng.range(1, 22) {
            let at = rng.range(1_000, faults_end_ms);
            let what = draw_fault(&mut rng);
            world.at(at, Action::Fault(what));
        }
    }
    draw_pauses(seed, &mut world, faults_end_ms);
    world.at(faults_end_ms, Action::Fault(Fault::Heal));
    let mut bound_ms = faults_end_ms + 3_000_000 + 5 * (110_000 + 120_000 + 30_000 + 660_000) + 1_000_000;
    if !calm_end {
        let kill_at = faults_end_ms + rng.range(0, 300_000);
        world.at(kill_at, Action::Fault(Fault::KillAll));
        bound_ms = kill_at + 3_000_000 + 1_800_000;
    }
    world.at(0, Action::StartDaemon);
    (
        world,
        Plan {
            faults_end_ms,
            bound_ms,
        },
    )
}

/// Drawn by itself: what is enough for a success, and how many failures are too many.
fn draw_success(seed: u64, jobs: &mut [JobSetup]) {
    let mut rng = Rng::new(seed ^ 0x50cc_e550);
    for job in jobs {
        job.success = match rng.below(8) {
            0 => Success::Any,
            1 => Success::Machines(rng.range(1, 4) as usize),
            2 => Success::Percent(rng.range(1, 101)),
            _ => Success::All,
        };
        if job.batch_size > 0 && rng.chance(400) {
            job.max_failures = Some(rng.below(2) as usize);
        }
    }
}

/// Drawn by themselves: seeds without a pause stay what they were.
fn draw_pauses(seed: u64, world: &mut World, faults_end_ms: u64) {
    let mut rng = Rng::new(seed ^ 0x9a05_e000);
    if !rng.chance(250) {
        return;
    }
    for _ in 0..rng.range(1, 4) {
        let (at, job) = (rng.range(1_000, faults_end_ms), rng.below(8) as usize);
        let ms = rng.range(1_000, 400_000);
        world.at(at, Action::Fault(Fault::Pause { job, ms }));
    }
}

fn draw_fault(rng: &mut Rng) -> Fault {
    match rng.below(27) {
        0..=1 => Fault::Crash,
        2..=3 => Fault::CrashAmidEffects,
        4 => Fault::Shutdown,
        5..=6 => Fault::Stall,
        7 => Fault::StepWall,
        8..=10 => Fault::CutSome,
        11..=12 => Fault::CutOff,
        13 => Fault::KillWrapper,
        14 => Fault::StopWrapper,
        15 => Fault::Freeze,
        16 => Fault::MachineDown,
        17 => Fault::Disk(*rng.pick(&[Full::ForOutput, Full::ForOutput, Full::ForAll])),
        18 => Fault::Slow(true),
        19 => Fault::Squeeze,
        20..=21 => Fault::Edit,
        22 => Fault::Maintenance,
        23..=24 => Fault::Lie,
        _ => Fault::Intruder,
    }
}

impl World {
    pub fn fault(&mut self, fault: Fault) {
        trace!(self, "FAULT {fault:?}");
        match fault {
            Fault::Crash => {
                self.crash();
                let gap = self.outage();
                self.restart_if_needed(gap);
            }
            Fault::CrashAmidEffects => {
                let after = self.rng.range(1, 12) as u32;
                if let Some(daemon) = &mut self.daemon {
                    daemon.dies_after_effects = Some(after);
                }
            }
            Fault::Shutdown => self.order_shutdown(),
            Fault::Stall => {
                let ms = if self.rng.chance(300) {
                    self.rng.range(100, 900)
                } else {
                    self.rng.range(4_000, 120_000)
                };
                let frozen = self.rng.chance(500);
                self.stall(ms, frozen);
            }
            Fault::StepWall => {
                let forward = self.rng.chance(500);
                let s = if self.rng.chance(600) {
                    self.rng.range(1, 90)
                } else {
                    self.rng.range(90, 8_000)
                };
                let us = s as i64 * 1_000_000 + self.rng.below(1_000) as i64 * 1_000;
                self.step_wall(if forward { us } else { -us });
            }
            Fault::Lie => self.lie(),
            Fault::LieOver(us) => self.step_wall(us),
            Fault::CutSome | Fault::CutOff | Fault::Reachable(_) => self.network_fault(fault),
            Fault::KillWrapper | Fault::StopWrapper | Fault::GoOn(_) => self.wrapper_fault(fault),
            Fault::Freeze | Fault::MachineUp(_) | Fault::MachineDown => self.machine_fault(fault),
            Fault::Disk(full) => {
                self.set_full(full);
                if full != Full::Room {
                    // longer than the engine keeps what has ended, too
                    let most = if self.rng.chance(150) { 1_800_000 } else { 150_000 };
                    let ms = self.rng.range(1_000, most);
                    self.after(ms, Action::Fault(Fault::Disk(Full::Room)));
                }
            }
            Fault::Slow(slow) => {
                self.storage.slow = slow;
                if slow {
                    let ms = self.rng.range(5_000, 60_000);
                    self.after(ms, Action::Fault(Fault::Slow(false)));
                }
            }
            Fault::Squeeze => {
                if let Some(daemon) = &mut self.daemon {
                    daemon.squeezed = true;
                }
                let ms = self.rng.range(10, 8_000);
                self.after(ms, Action::Fault(Fault::SqueezeOver));
            }
            Fault::SqueezeOver => self.squeeze_over(),
            Fault::Run | Fault::Kill | Fault::KillAll => self.user(fault),
            Fault::Pause { job, ms } => self.pause(job, ms),
            Fault::Edit | Fault::Maintenance | Fault::MaintenanceOver => self.operator(fault),
            Fault::Intruder => self.intrude(),
            Fault::Heal => self.heal(),
        }
    }

    fn outage(&mut self) -> u64 {
        match self.rng.below(4) {
            0 => self.rng.range(100, 2_000),
            1 => self.rng.range(2_000, 14_000),
            2 => self.rng.range(14_000, 90_000),
            _ if self.rng.chance(200) => self.rng.range(900_000, 3_000_000),
            _ => self.rng.range(90_000, 500_000),
        }
    }

    fn restart_if_needed(&mut self, gap: u64) {
        if self.daemon.is_none() {
            self.restart_in(gap);
        }
    }

    fn order_shutdown(&mut self) {
        let life = self.life;
        let Some(daemon) = &mut self.daemon else { return };
        if daemon.shutting_down || daemon.stalled {
            return;
        }
        daemon.shutting_down = true;
        self.control(saltpeter::engine::event::Event::Shutdown);
        let wait = self.rng.range(50, 2_000);
        self.after(wait, Action::Exit { life });
        let gap = wait + self.outage();
        self.restart_in(gap);
    }

    /// The clock is years off, for no longer than it takes until the engine believes it (rules.md 13a).
    fn lie(&mut self) {
        if self.checker.dues.lies() {
            return;
        }
        let now_us = self.wall().0;
        let us = if self.rng.chance(250) {
            -now_us + self.rng.below(1_000_000_000) as i64
        } else {
            self.rng.range(2, 4 * 366) as i64 * 86_400_000_000
        };
        self.step_wall(us);
        let ms = if self.rng.chance(500) {
            self.rng.range(1_000, 5_000)
        } else {
            self.rng.range(5_000, 120_000)
        };
        self.after(ms, Action::Fault(Fault::LieOver(-us)));
    }

    pub fn step_wall(&mut self, us: i64) {
        trace!(self, "CLOCK steps by {us} us");
        self.wall_offset_us += us;
        self.dues_wall_stepped(us);
    }

    fn network_fault(&mut self, fault: Fault) {
        match fault {
            Fault::CutSome => {
                let ids: Vec<u64> = self
                    .conns
                    .iter()
                    .filter(|(_, c)| c.wrapper_open)
                    .map(|(id, _)| *id)
                    .collect();
                for id in ids {
                    if self.rng.chance(600) {
                        let wrapper = if self.rng.chance(300) {
                            self.rng.range(5_000, 40_000)
                        } else {
                            self.rng.range(0, 500)
                        };
                        let daemon = if self.rng.chance(300) {
                            self.rng.range(20_000, 600_000)
                        } else {
                            self.rng.range(0, 500)
                        };
                        self.cut(id, wrapper, daemon);
                    }
                }
            }
            Fault::CutOff => {
                let machine = self.rng.below(self.machines.len() as u64) as usize;
                self.machines[machine].cut_off = true;
                let ids: Vec<u64> = self
                    .conns
                    .iter()
                    .filter(
                        |(_, c)| matches!(c.owner, Owner::Wrapper(w) if self.wrappers[w].machine == machine),
                    )
                    .map(|(id, _)| *id)
                    .collect();
                for id in ids {
                    let daemon = self.rng.range(0, 60_000);
                    let wrapper = self.rng.range(0, 30_000);
                    self.cut(id, wrapper, daemon);
                }
                let ms = match self.rng.below(3) {
                    0 => self.rng.range(500, 9_000),
                    1 => self.rng.range(9_000, 60_000),
                    _ => self.rng.range(60_000, 600_000),
                };
                self.after(ms, Action::Fault(Fault::Reachable(machine)));
            }
            Fault::Reachable(machine) => self.machines[machine].cut_off = false,
            _ => {}
        }
    }

    fn wrapper_fault(&mut self, fault: Fault) {
        if let Fault::GoOn(wrapper) = fault {
            self.wrapper_goes_on(wrapper);
            return;
        }
        let alive: Vec<usize> = (0..self.wrappers.len())
            .filter(|w| self.wrappers[*w].alive)
            .collect();
        if alive.is_empty() {
            return;
        }
        let wrapper = *self.rng.pick(&alive);
        if matches!(fault, Fault::KillWrapper) {
            let machine_too = self.rng.chance(300);
            self.wrapper_killed(wrapper, machine_too);
        } else {
            self.wrappers[wrapper].stopped = true;
            let ms = self.rng.range(3_000, 60_000);
            self.after(ms, Action::Fault(Fault::GoOn(wrapper)));
        }
    }

    fn machine_fault(&mut self, fault: Fault) {
        let machine = self.rng.below(self.machines.len() as u64) as usize;
        match fault {
            Fault::Freeze => {
                let ms = self.rng.range(20_000, 400_000);
                self.machines[machine].frozen_until_ms = self.now_ms + ms;
            }
            Fault::MachineDown => {
                self.machines[machine].up = false;
                let ms = self.rng.range(5_000, 200_000);
                self.after(ms, Action::Fault(Fault::MachineUp(machine)));
            }
            Fault::MachineUp(machine) => self.machines[machine].up = true,
            _ => {}
        }
    }

    fn pause(&mut self, job: usize, ms: u64) {
        let names: Vec<String> = self.jobs.keys().cloned().collect();
        let job = names[job % names.len()].clone();
        let until = Some(self.wall().plus_ms(ms as i64));
        let reason = "disk swap".to_string();
        self.ask(Ask::Pause { job, until, reason });
    }

    fn user(&mut self, fault: Fault) {
        let jobs: Vec<String> = self.jobs.keys().cloned().collect();
        let job = self.rng.pick(&jobs).clone();
        match fault {
            Fault::Run => {
                self.ask(Ask::Run { job });
            }
            Fault::KillAll => {
                for job in jobs {
                    self.ask(Ask::Kill {
                        job,
                        machine: None,
                        instance: None,
                    });
                }
                // what comes back later is killed as well
                self.after(60_000, Action::Fault(Fault::KillAll));
            }
            _ => {
                let open: Vec<String> = self
                    .storage
                    .runs
                    .values()
                    .filter(|r| r.stage != RunStage::Ended && r.job == job)
                    .map(|r| r.instance.clone())
                    .collect();
                let instance =
                    (!open.is_empty() && self.rng.chance(300)).then(|| self.rng.pick(&open).clone());
                let machine = self
                    .rng
                    .chance(400)
                    .then(|| self.rng.pick(&self.machines).name.clone());
                self.ask(Ask::Kill {
                    job,
                    machine,
                    instance,
                });
            }
        }
    }

    fn operator(&mut self, fault: Fault) {
        match fault {
            Fault::Maintenance => {
                let global = self.rng.chance(500);
                let machines: Vec<String> = self
                    .machines
                    .iter()
                    .filter(|m| m.name.ends_with('1') || m.name.ends_with('0'))
                    .map(|m| m.name.clone())
                    .collect();
                self.set_maintenance(global, if global { &[] } else { &machines });
                let ms = self.rng.range(5_000, 200_000);
                self.after(ms, Action::Fault(Fault::MaintenanceOver));
            }
            Fault::MaintenanceOver => self.set_maintenance(false, &[]),
            _ => {
                let names: Vec<String> = self.jobs.keys().cloned().collect();
                let name = self.rng.pick(&names).clone();
                let what = self.rng.below(5);
                if let Some(job) = self.jobs.get_mut(&name) {
                    match what {
                        0 => job.present = !job.present,
                        1..=2 => job.enabled = !job.enabled,
                        3 => job.timeout_s = if job.timeout_s == 30 { 60 } else { 30 },
                        _ => job.sec = if job.sec == "20" { "40".into() } else { "20".into() },
                    }
                }
                self.rebuild_config();
            }
        }
        self.reload();
    }

    /// Somebody who was not let in tries.
    fn intrude(&mut self) {
        let open: Vec<_> = self
            .storage
            .runs
            .values()
            .filter(|r| r.stage != RunStage::Ended)
            .map(|r| (r.id, r.job.clone(), r.instance.clone(), r.token.clone()))
            .collect();
        let Some((id, job, instance, token)) = (!open.is_empty()).then(|| self.rng.pick(&open).clone())
        else {
            return;
        };
        let machines: Vec<(String, bool)> = self
            .storage
            .machines_of(id)
            .filter(|m| m.stage != MachineStage::Ended)
            .map(|m| (m.machine.clone(), m.wrapper_id.is_some() && m.ours))
            .collect();
        let Some((machine, has_id)) = (!machines.is_empty()).then(|| self.rng.pick(&machines).clone()) else {
            return;
        };
        let mut key = SessionKey {
            job,
            instance,
            machine,
        };
        let other = open.iter().find(|o| o.0 != id).map(|o| o.3.clone());
        let kind = self.rng.below(5);
        let token = match kind {
            0 => None,
            1 => other.or(Some("00ff".into())),
            2 => {
                key.machine = "nobody".into();
                Some(token)
            }
            3 => {
                key.instance.push_str("_99");
                Some(token)
            }
            _ if has_id => Some(token),
            _ => return,
        };
        let frames = intruder_frames(&mut self.rng, &key, kind == 4);
        if let Some(conn) = self.dial(Owner::Intruder(kind), token, usize::MAX)
            && let Some(conn) = self.conns.get_mut(&conn)
        {
            conn.intruder_frames = frames;
        }
    }

    /// The faults are over.
    fn heal(&mut self) {
        if self.restart_pending || self.checker.dues.lies() {
            // first it shall see what became due meanwhile
            self.after(5_000, Action::Fault(Fault::Heal));
            return;
        }
        self.healed = true;
        for machine in &mut self.machines {
            machine.cut_off = false;
            machine.up = true;
        }
        for wrapper in 0..self.wrappers.len() {
            self.wrapper_goes_on(wrapper);
        }
        self.storage.slow = false;
        self.executor.chaos = 0;
        self.set_full(Full::Room);
        self.squeeze_over();
        if let Some(daemon) = &mut self.daemon {
            daemon.dies_after_effects = None;
        }
        for job in self.jobs.values_mut() {
            job.enabled = false;
        }
        self.rebuild_config();
        self.set_maintenance(false, &[]);
        if self.daemon.is_none() && !self.restart_pending {
            self.restart_in(100);
        }
        self.reload();
    }
}

fn intruder_frames(rng: &mut Rng, key: &SessionKey, only_joins: bool) -> Vec<WrapperFrame> {
    let output = WrapperBody::Output(OutputBody {
        data: b"INTRUDER\n".to_vec(),
        is_text: true,
        stream: None,
        seq: Some(rng.below(4)),
    });
    let connect = WrapperBody::Connect {
        accepts: Some(vec![
            "job".into(),
            "window".into(),
            "resume".into(),
            "data_base64".into(),
        ]),
        wrapper_id: Some("intruder".into()),
        version: Some("6.6.6".into()),
    };
    let complete = WrapperBody::Complete {
        retcode: Some(77),
        seq: Some(rng.below(5)),
        given_by: None,
        duration_ms: None,
    };
    let start = WrapperBody::Start {
        pid: Some(666),
        version: None,
    };
    let error = WrapperBody::Error {
        error: "INTRUDER".into(),
    };
    let mut bodies = vec![connect, start, WrapperBody::Heartbeat, output, complete, error];
    if !only_joins {
        let from = rng.below(bodies.len() as u64) as usize;
        bodies.drain(..from);
    }
    bodies.truncate(rng.range(1, 6) as usize);
    bodies
        .into_iter()
        .map(|body| WrapperFrame {
            key: key.clone(),
            timestamp: None,
            body,
        })
        .collect()
}
