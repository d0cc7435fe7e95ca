//! QEMU for programs of the other architecture, registered while an engine needs it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::packages::{ARCH, Apt, RELEASE, unpack};
use crate::sandbox::{run, run_anyway};
use crate::shared::{Folder, common, folders, gate, once};

const BINFMT: &str = "/proc/sys/fs/binfmt_misc";
const REGISTER: &str = "/proc/sys/fs/binfmt_misc/register";
/// Ours alone: an entry of the host's own stays, and the last one registered wins.
const ENTRY: &str = "/proc/sys/fs/binfmt_misc/xtask-engine";

/// Marks the folder of an engine that emulates.
const WANTED: &str = "emulates";
/// Marks the folder of all engines if `binfmt_misc` was not mounted before.
const MOUNTED: &str = "binfmt-mounted";

/// Lets the kernel run programs of the other architecture, for the engine with this `folder`.
/// Errors: if QEMU can't be downloaded, or the kernel refuses it; `Interrupted` on a signal.
pub fn register(folder: &Folder, downloads: &Path) -> Result<()> {
    let other = if ARCH == "amd64" { "aarch64" } else { "x86_64" };
    let qemu = downloads.join(format!("qemu-{other}-on-{ARCH}"));
    once(&qemu, |scratch| {
        let made = scratch.join("qemu");
        fs::create_dir(&made)?;
        let apt = Apt::new(scratch.join("apt"), RELEASE, ARCH)?;
        unpack(&apt.fetch("qemu-user")?, scratch)?;
        let usr = scratch.join("usr");
        fs::rename(usr.join(format!("bin/qemu-{other}")), made.join("qemu"))?;
        let conf = format!("share/qemu/binfmt.d/qemu-{other}.conf");
        fs::rename(usr.join(conf), made.join("binfmt.conf"))?;
        Ok(made)
    })?;
    // Debian's line for the kernel with our name and path, and flags that make the kernel open QEMU
    // now, so that it is found in containers, and keep credentials and the open program.
    let conf = fs::read_to_string(qemu.join("binfmt.conf"))?;
    let [_, _, kind, offset, magic, mask, ..] = conf.trim().split(':').collect::<Vec<_>>()[..]
    else {
        bail!("{conf:?} from the package qemu-user is not a line for binfmt_misc");
    };
    let qemu = qemu.join("qemu");
    let line = format!(":xtask-engine:{kind}:{offset}:{magic}:{mask}:{}:OCF", qemu.display());
    let _gate = gate()?;
    fs::write(folder.join(WANTED), "")?;
    if !Path::new(REGISTER).exists() {
        fs::write(common(MOUNTED), "")?;
        let mount = ["-n", "-t", "binfmt_misc", "binfmt_misc", BINFMT];
        run("mounting binfmt_misc", Command::new("mount").args(mount))?;
    }
    if !Path::new(ENTRY).exists() {
        fs::write(REGISTER, line).context("cannot register QEMU")?;
    }
    Ok(())
}

/// Unregisters it, unless a running engine still needs it. To be called with the gate held.
pub fn restore() {
    if !folders().any(|folder| folder.join(WANTED).exists()) {
        let _ = fs::write(ENTRY, "-1");
        if fs::remove_file(common(MOUNTED)).is_ok() {
            run_anyway(Command::new("umount").args(["-n", BINFMT]));
        }
    }
}
