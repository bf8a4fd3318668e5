//! lsblk and wipefs: running them, and reading what they print.

use super::InspectError;
use serde::Deserialize;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A tool that takes longer than this stands on a drive that does not answer.
const TOOL_LIMIT: Duration = Duration::from_secs(15);

const COLUMNS: &str = "NAME,PATH,SIZE,ROTA,TYPE,MODEL,SERIAL,WWN,FSTYPE,LABEL,MOUNTPOINTS,RO,PKNAME";

/// A block device as lsblk tells it, with what stands on it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Node {
    pub name: String,
    pub path: PathBuf,
    #[serde(default)]
    pub size: Option<u64>,
    #[serde(default)]
    pub rota: bool,
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub serial: Option<String>,
    #[serde(default)]
    pub wwn: Option<String>,
    #[serde(default)]
    pub fstype: Option<String>,
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub mountpoints: Vec<Option<String>>,
    #[serde(default)]
    pub ro: bool,
    #[serde(default)]
    pub pkname: Option<String>,
    #[serde(default)]
    pub children: Vec<Node>,
}

#[derive(Deserialize)]
struct Tree {
    blockdevices: Vec<Node>,
}

/// A signature as wipefs tells it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Signature {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub label: Option<String>,
}

#[derive(Deserialize)]
struct Signatures {
    signatures: Vec<Signature>,
}

/// The block devices of this machine, or one of them, each with what stands on it.
pub fn lsblk(device: Option<&Path>) -> Result<Vec<Node>, InspectError> {
    let options = ["--json", "--bytes", "--output", COLUMNS].map(OsStr::new);
    let arguments = options.into_iter().chain(device.map(Path::as_os_str));
    parse_lsblk(&run("lsblk", arguments)?)
}

/// The signatures on a block device or in a file.
pub fn wipefs(path: &Path) -> Result<Vec<Signature>, InspectError> {
    let options = ["--no-act", "--json", "--"].map(OsStr::new);
    parse_wipefs(&run("wipefs", options.into_iter().chain([path.as_os_str()]))?)
}

pub fn parse_lsblk(text: &[u8]) -> Result<Vec<Node>, InspectError> {
    let tree: Tree = serde_json::from_slice(text).map_err(|e| misunderstood("lsblk", &e))?;
    Ok(tree.blockdevices)
}

pub fn parse_wipefs(text: &[u8]) -> Result<Vec<Signature>, InspectError> {
    // Versions differ in what they print for nothing: an empty list, or nothing at all.
    if text.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let found: Signatures = serde_json::from_slice(text).map_err(|e| misunderstood("wipefs", &e))?;
    Ok(found.signatures)
}

fn misunderstood(tool: &str, error: &serde_json::Error) -> InspectError {
    InspectError::ToolFailed {
        tool: tool.to_owned(),
        reason: format!("its output was not understood: {error}"),
    }
}

/// The tool's file in the first of the folders that has it.
pub fn find_tool(tool: &str, folders: impl IntoIterator<Item = PathBuf>) -> Result<PathBuf, InspectError> {
    let mut candidates = folders.into_iter().map(|folder| folder.join(tool));
    candidates.find(|file| file.is_file()).ok_or_else(|| InspectError::ToolMissing(tool.to_owned()))
}

fn run<'a>(tool: &str, arguments: impl Iterator<Item = &'a OsStr>) -> Result<Vec<u8>, InspectError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Users without rights have no sbin in their PATH, and wipefs lives there.
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    let file = find_tool(tool, folders.filter(|f| f.is_absolute()))?;
    let mut command = Command::new(file);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
    let failed = |reason: String| InspectError::ToolFailed { tool: tool.to_owned(), reason };
    let output = output_within(command, TOOL_LIMIT).map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.lines().next().unwrap_or("no reason given").trim().to_owned()))
}

fn output_within(mut command: Command, limit: Duration) -> Result<Output, String> {
    let (sender, receiver) = mpsc::channel();
    // A tool that hangs in the kernel cannot be ended; its thread is left behind and ends with this process.
    std::thread::spawn(move || sender.send(command.output()));
    match receiver.recv_timeout(limit) {
        Ok(output) => output.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}
