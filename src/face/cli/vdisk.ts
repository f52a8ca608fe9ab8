/** vdisk: the peers under one roof, the verbs of qemu-img with `--json` and `--progress json`, and the servers. */
import { out, setProgram, usageError } from './output.js';
import { useJsonProgress } from './progress.js';
import { tools } from './tools.js';

const help = `vdisk: virtual disks for people and programs

Look at an image, make one, change its format:
  vdisk info disk.qcow2                          what it is, how large, what it stands on
  vdisk create -f qcow2 disk.qcow2 20G           an empty disk
  vdisk create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2
  vdisk convert -p -O qcow2 -c disk.raw disk.qcow2
  vdisk convert -O qcow2 disk.raw - | ssh host …  onto standard output; "-" as source is standard input
  vdisk map disk.qcow2                           where the data lies
  vdisk check disk.qcow2                         is it sound?  (-r leaks|all repairs)

Also: amend bench bitmap commit compare dd measure rebase resize snapshot.
"vdisk VERB --help" explains each. They take qemu-img's options, and everywhere
  --json                 the result on standard output as one JSON document
  --progress json        a line {"progress": percent} on standard error as the work goes on

Formats, for -f and -O:
  raw qcow2 qcow qed vdi vpc (VHD) vhdx vmdk parallels luks; to read: bochs cloop dmg, and a folder as fat:DIRECTORY

Serve:
  vdisk serve [DIRECTORY]                        a directory of images over NBD (read-only; --writable)
  vdisk nbd [options] IMAGE                      one image over NBD

The peers, exactly as scripts know them (also under their own names):
  vdisk qemu-img …   vdisk qemu-io …   vdisk qemu-nbd …
  vdisk vmware-vdiskmanager …   vdisk vmware-mount …   vdisk vixdisklib-sample …

  vdisk --version        vdisk --help
`;

/** Verbs that print JSON themselves. */
const reporting = new Set(['check', 'info', 'map', 'measure']);

export async function main(argv: string[]): Promise<number> {
  const [command, ...rest] = argv;
  switch (command) {
    case undefined:
      out(help);
      return 1;
    case 'help':
      if (rest.length > 0) return main([...rest, '--help']);
      out(help);
      return 0;
    case '-h': case '--help':
      out(help);
      return 0;
    case '-V': case '--version':
      out((await import('./qemu-img/help.js')).ownVersionText());
      return 0;
    case 'nbd': return (await import('./nbd.js')).main(rest);
    case 'serve': return (await import('./serve.js')).main(rest);
    default: break;
  }
  const load = Object.hasOwn(tools, command) ? tools[command] : undefined;
  if (load === undefined) return verb(command, rest);
  setProgram(command);
  return (await load()).main(rest);
}

async function verb(command: string, argv: string[]): Promise<number> {
  const { verbs } = await import('./qemu-img/index.js');
  const load = Object.hasOwn(verbs, command) ? verbs[command] : undefined;
  if (load === undefined) throw usageError(`Command not found: ${command}`);
  const { json, rest } = takeOwnOptions(argv);
  const { main: run } = await load();
  if (!json) return run(rest);
  if (reporting.has(command)) return run([...rest, '--output=json']);
  return runForJson(run, rest);
}

/** Removes --json and --progress json, which the verbs don't know. */
function takeOwnOptions(argv: readonly string[]): { json: boolean; rest: string[] } {
  const rest: string[] = [];
  let json = false;
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at]!;
    if (word === '--json') json = true;
    else if (word === '--progress=json') useJsonProgress();
    else if (word === '--progress' && argv[at + 1] === 'json') {
      useJsonProgress();
      at++;
    } else rest.push(word);
  }
  return { json, rest };
}

/** Runs a verb whose output is text and prints how it ended as JSON: {"exit-code", "output"} or {"exit-code", "error"}. */
async function runForJson(run: (argv: string[]) => Promise<number>, argv: string[]): Promise<number> {
  const { captureOut, describeFailure } = await import('./output.js');
  const output = captureOut();
  let result: Record<string, unknown>;
  try {
    const exitCode = await run(argv);
    result = { 'exit-code': exitCode, output: output() };
  } catch (error) {
    const { message, exitCode } = describeFailure(error);
    result = { 'exit-code': exitCode, output: output(), error: message };
  }
  out(`${JSON.stringify(result)}\n`);
  return result['exit-code'] as number;
}
