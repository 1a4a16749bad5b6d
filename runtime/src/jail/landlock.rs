//! Landlock, where the kernel has it: what the process may do with files, sockets and signals, whatever else it may see.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Access, Jail, Layers, Root};
use crate::{Error, error::Kind};

const NAME: &str = "Landlock";
/// The newest version whose rules are known here: 6 is Linux 6.12.
const VERSION: ABI = ABI::V6;

/// Denies everything that Landlock knows of, but for what `jail` says.
pub(super) fn restrict(jail: &Jail, layers: &mut Layers) -> Result<(), Error> {
    match rules(jail) {
        Ok(RulesetStatus::FullyEnforced) => {
            layers.in_force(NAME, "no files but its own, no network, no signals to others");
        }
        Ok(RulesetStatus::PartiallyEnforced) => {
            layers.in_force(NAME, "as far as this kernel's version of it goes");
        }
        Ok(RulesetStatus::NotEnforced) => {
            layers.not_granted(NAME, "not in this kernel, or not turned on (boot with lsm=landlock,…)");
        }
        Err(error) => {
            return Err(Error::because(Kind::Host, "cannot confine the sandbox process: Landlock", &error));
        }
    }
    Ok(())
}

fn rules(jail: &Jail) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .scope(Scope::from_all(VERSION))?
        .create()?;
    let read = AccessFs::from_read(VERSION);
    if let Root::Program { devices, files, .. } = &jail.root {
        let folders = std::iter::once(("/".into(), read));
        let use_it: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        let devices = devices.iter().map(|name| (Path::new("/dev").join(name), use_it));
        for (path, access) in folders.chain(devices) {
            // What is not there needs no rule.
            if let Ok(path) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(path, access))?;
            }
        }
        for file in files {
            rules = rules.add_rule(PathBeneath::new(file, AccessFs::ReadFile))?;
        }
    }
    for (source, access) in &jail.shares {
        let access = match access {
            Access::Read => read,
            Access::Change => AccessFs::from_all(VERSION),
        };
        rules = rules.add_rule(PathBeneath::new(source, access & !AccessFs::Execute))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}
