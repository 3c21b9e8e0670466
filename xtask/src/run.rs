//! Running cargo, and what cargo built.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Exit code: the command line is wrong.
pub const USAGE: u8 = 4;
/// Exit code: something that the project does not answer for, such as a failed build.
pub const INFRASTRUCTURE: u8 = 5;

/// The workspace's folder.
pub fn root() -> PathBuf {
    // Set by cargo when it runs this binary, and the same as at build time when it is run by hand.
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or(here.clone(), Path::to_path_buf)
}

/// Cargo, in the workspace's folder.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    // The surrounding `cargo run` sets these for this binary, not for those it starts.
    for inherited in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME"] {
        command.env_remove(inherited);
    }
    command
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || root().join("target"),
        |target| {
            let target = PathBuf::from(target);
            if target.is_absolute() { target } else { root().join(target) }
        },
    )
}

/// What to build for a simulator like the one that `cargo test --workspace` has built beside its tests. By itself it
/// would get its dependencies with fewer features, and nearly everything would be built again; a test among
/// what is asked for, here a very small one, makes cargo take those of tests.
pub const AS_TESTS_BUILD: [&str; 5] = ["--workspace", "--bin", "sim", "--test", "schedules"];

/// Builds the simulator: in the profile `dev` as the tests have built it.
///
/// # Errors
/// What went wrong, for people.
pub fn build_sim(profile: &str) -> Result<PathBuf, String> {
    let mut build = cargo(&["build", "--quiet", "--profile", profile]);
    match profile {
        "dev" => build.args(AS_TESTS_BUILD),
        _ => build.args(["--package", "sim"]),
    };
    let status = build.status().map_err(|error| format!("cannot start cargo: {error}"))?;
    if !status.success() {
        return Err("the simulator does not build".into());
    }
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(target().join(folder).join(format!("sim{}", std::env::consts::EXE_SUFFIX)))
}

/// `cargo xtask sim …`: builds the simulator and hands it the command line.
pub fn sim(arguments: &[String]) -> ExitCode {
    let binary = match build_sim("release") {
        Ok(binary) => binary,
        Err(error) => return infrastructure(&error),
    };
    match Command::new(&binary).args(arguments).status() {
        Ok(status) => ExitCode::from(
            status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(INFRASTRUCTURE),
        ),
        Err(error) => infrastructure(&format!("cannot start {}: {error}", binary.display())),
    }
}

/// Says what went wrong, and that the project is not to blame.
pub fn infrastructure(error: &str) -> ExitCode {
    eprintln!("xtask: {error}");
    ExitCode::from(INFRASTRUCTURE)
}
