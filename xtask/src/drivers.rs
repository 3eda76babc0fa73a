//! The further drivers and validators that the tests run with on Linux: SwiftShader, Mesa through OpenGL, the Khronos
//! validation layer and spirv-val.
//!
//! What need not be installed is unpacked from Debian's packages into a folder of the target folder, and found there the
//! next time. Whatever is missing is no error here: the tests that need it are reported as not run, with the reason.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::setup;

/// Where something is, or why it is not there.
pub type Found<T> = Result<T, String>;

#[derive(Debug)]
pub struct Drivers {
    /// The manifest of the Vulkan driver.
    pub swiftshader: Found<PathBuf>,
    pub gl: Found<()>,
    /// The folder with the layer's manifest.
    pub layers: Found<PathBuf>,
    /// The program.
    pub spirv_val: Found<PathBuf>,
    /// The folder of the npm package that carries Dawn and with it Tint. It takes Node.js, which nothing else here does, so
    /// where that is not there it is not `missing`.
    pub tint: Found<PathBuf>,
    /// Open MPI, and what the bindings to it are built with.
    pub mpi: Found<()>,
    /// Network namespaces. Where a machine forbids them, there is nothing to install, so they are not `missing`.
    pub hosts: Found<()>,
}

impl Drivers {
    /// What is missing, by name and with the reason.
    pub fn missing(&self) -> Vec<(&'static str, &str)> {
        let reasons = [
            ("SwiftShader", self.swiftshader.as_ref().err()),
            ("OpenGL", self.gl.as_ref().err()),
            ("validation layer", self.layers.as_ref().err()),
            ("spirv-val", self.spirv_val.as_ref().err()),
            ("Open MPI", self.mpi.as_ref().err()),
        ];
        reasons.into_iter().filter_map(|(name, reason)| Some((name, reason?.as_str()))).collect()
    }
}

/// Files of a Debian package that run without being installed. All are found by name, wherever the package has them.
struct Unpacked {
    folder: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    /// Where another distribution has them.
    by_hand: &'static str,
}

const SWIFTSHADER: Unpacked = Unpacked {
    folder: "swiftshader",
    package: "chromium-common",
    files: &["vk_swiftshader_icd.json", "libvk_swiftshader.so"],
    by_hand: "every Chromium and Chrome has them in its folder",
};

const LAYERS: Unpacked = Unpacked {
    folder: "validation",
    package: "vulkan-validationlayers",
    files: &["VkLayer_khronos_validation.json", "libVkLayer_khronos_validation.so"],
    by_hand: "or install vulkan-validation-layers",
};

const SPIRV_VAL: Unpacked = Unpacked {
    folder: "spirv-tools",
    package: "spirv-tools",
    files: &["spirv-val"],
    by_hand: "or install spirv-tools",
};

/// Where the layer's manifest is when it is installed.
const INSTALLED_LAYERS: &str = "/usr/share/vulkan/explicit_layer.d";

/// The folder for what is unpacked, in the target folder that this program was built into.
pub fn folder() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    // target/debug/xtask
    program.ancestors().nth(2).unwrap_or(Path::new("target")).join("drivers")
}

/// Looks for everything, and where `get` allows it downloads or installs what is missing.
pub fn prepare(get: bool) -> Drivers {
    if env::consts::OS != "linux" {
        let other = || Err(String::from("runs on Linux only"));
        let nothing = || other().map(|_: PathBuf| ());
        return Drivers {
            swiftshader: other(),
            gl: nothing(),
            layers: other(),
            spirv_val: other(),
            tint: other(),
            mpi: nothing(),
            hosts: nothing(),
        };
    }
    let folder = folder();
    let installed_layer = Path::new(INSTALLED_LAYERS).join(LAYERS.files[0]);
    let drivers = Drivers {
        swiftshader: unpacked(&folder, &SWIFTSHADER, get),
        gl: setup::gl(get),
        layers: if installed_layer.is_file() { Ok(installed_layer) } else { unpacked(&folder, &LAYERS, get) }
            .map(|manifest| manifest.parent().unwrap_or(Path::new("")).into()),
        spirv_val: on_path(SPIRV_VAL.files[0]).map_or_else(|| unpacked(&folder, &SPIRV_VAL, get), Ok),
        tint: tint(&folder, get),
        mpi: setup::mpi(get),
        hosts: setup::namespaces(),
    };
    for (name, reason) in drivers.missing() {
        println!("setup: {name}: {reason}");
    }
    drivers
}

/// The package in the version that the shaders were last looked at with, from npm's registry if need be and allowed.
fn tint(root: &Path, get: bool) -> Found<PathBuf> {
    const PACKAGE: &str = "webgpu@0.6.2";
    if setup::output("node", &["--version"]).is_none() {
        return Err(format!("needs Node.js, and npm to fetch {PACKAGE}"));
    }
    let folder = root.join("tint");
    let package = folder.join("node_modules/webgpu");
    if package.join("index.js").is_file() {
        return Ok(package);
    }
    if !get {
        return Err(String::from("not there; run `cargo xtask setup`"));
    }
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    println!("setup: npm install {PACKAGE}");
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--prefix"]);
    npm.arg(&folder).arg(PACKAGE).stdin(Stdio::null());
    if npm.status().is_ok_and(|status| status.success()) && package.join("index.js").is_file() {
        Ok(package)
    } else {
        Err(format!("npm could not fetch {PACKAGE}"))
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The first of the files, downloaded if need be and allowed.
fn unpacked(root: &Path, what: &Unpacked, get: bool) -> Found<PathBuf> {
    let folder = root.join(what.folder);
    let complete = || what.files.iter().all(|file| folder.join(file).is_file());
    let advice = || format!("put {} into {} ({})", what.files.join(" and "), folder.display(), what.by_hand);
    if !complete() {
        if !get {
            return Err(format!("not there; run `cargo xtask setup`, or {}", advice()));
        }
        if setup::output("apt-get", &["--version"]).is_none() || setup::output("dpkg-deb", &["--version"]).is_none() {
            return Err(format!("no Debian packages here; {}", advice()));
        }
        download(root, &folder, what).map_err(|error| format!("{error}; {}", advice()))?;
    }
    Ok(folder.join(what.files[0]))
}

/// Downloads a package, takes the files out of it and leaves nothing else.
fn download(root: &Path, folder: &Path, what: &Unpacked) -> Result<(), String> {
    let scratch = root.join("unpacking");
    let failed = |error: io::Error| format!("{}: {error}", scratch.display());
    if scratch.exists() {
        fs::remove_dir_all(&scratch).map_err(failed)?;
    }
    fs::create_dir_all(&scratch).map_err(failed)?;
    if !apt_get(&scratch, &["download", what.package]) {
        // Nobody has fetched the lists of packages, or they are old; a list of our own takes no privileges.
        let lists = root.join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(lists.join(part)).map_err(|error| format!("{}: {error}", lists.display()))?;
        }
        let options = [
            format!("-oDir::State::Lists={}", lists.join("lists").display()),
            format!("-oDir::Cache={}", lists.join("cache").display()),
        ];
        let [state, cache] = options.each_ref().map(String::as_str);
        apt_get(&scratch, &[state, cache, "update"]);
        if !apt_get(&scratch, &[state, cache, "download", what.package]) {
            return Err(format!("the package {} could not be downloaded", what.package));
        }
    }
    let package = find(&scratch, &|name| name.ends_with(".deb")).ok_or("apt-get left no package")?;
    let contents = scratch.join("contents");
    let unpacked = Command::new("dpkg-deb").arg("-x").args([&package, &contents]).status();
    if !unpacked.is_ok_and(|status| status.success()) {
        return Err(format!("{} could not be unpacked", package.display()));
    }
    fs::create_dir_all(folder).map_err(failed)?;
    for file in what.files {
        let from = find(&contents, &|name| name == *file)
            .ok_or_else(|| format!("the package {} of this distribution has no {file}", what.package))?;
        let to = folder.join(file);
        if Path::new(file).extension().is_some_and(|extension| extension == "json") {
            // A library that is named without a folder is looked for among the installed ones.
            let manifest = fs::read_to_string(&from).map_err(failed)?;
            fs::write(&to, manifest.replace(": \"lib", ": \"./lib")).map_err(failed)?;
        } else {
            fs::copy(&from, &to).map_err(failed)?;
        }
    }
    fs::remove_dir_all(&scratch).map_err(failed)
}

fn apt_get(folder: &Path, arguments: &[&str]) -> bool {
    println!("setup: apt-get {}", arguments.join(" "));
    let mut command = Command::new("apt-get");
    // As root, apt downloads as another user, who may not write into the target folder.
    command.args(["-qq", "-oAPT::Sandbox::User=root"]).args(arguments).current_dir(folder).stdin(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The first file below a folder whose name is wanted.
fn find(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_symlink() {
            continue;
        } else if path.is_dir() {
            folders.push(path);
        } else if wanted(&entry.file_name().to_string_lossy()) {
            return Some(path);
        }
    }
    folders.iter().find_map(|folder| find(folder, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_already_is_taken_without_a_download() {
        let root = env::temp_dir().join(format!("wgpu-batch-norm-xtask-{}", std::process::id()));
        let what = Unpacked { folder: "tool", package: "no-such-package", files: &["a.json", "b.so"], by_hand: "ask" };
        let folder = root.join("tool");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.json"), "").unwrap();
        let incomplete = unpacked(&root, &what, false).unwrap_err();
        assert!(incomplete.contains("put a.json and b.so into") && incomplete.contains("ask"), "{incomplete}");
        fs::write(folder.join("b.so"), "").unwrap();
        assert_eq!(unpacked(&root, &what, true), Ok(folder.join("a.json")));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        let drivers = Drivers {
            swiftshader: Ok("icd.json".into()),
            gl: Err("no libEGL.so.1".into()),
            layers: Err("not there".into()),
            spirv_val: Ok("spirv-val".into()),
            tint: Err("needs Node.js".into()),
            mpi: Ok(()),
            hosts: Err("not here".into()),
        };
        assert_eq!(drivers.missing(), [("OpenGL", "no libEGL.so.1"), ("validation layer", "not there")]);
    }
}
