/** The multi-call program. Each tool, and each verb of a tool, is its own module: a call loads only what it runs. */
import { exit, reportFailure, setProgram } from './output.js';

/** Runs the tool named `program` ('qemu-img', 'qemu-io', 'qemu-nbd', 'vdisk') and ends the process with its exit code. */
export async function run(program: string, argv: string[]): Promise<void> {
  setProgram(program);
  try {
    exit(await dispatch(program, argv));
  } catch (error) {
    exit(reportFailure(error));
  }
}

async function dispatch(program: string, argv: string[]): Promise<number> {
  switch (program) {
    case 'qemu-img': return (await import('./qemu-img/index.js')).main(argv);
    case 'qemu-io': return (await import('./qemu-io/index.js')).main(argv);
    case 'qemu-nbd': return (await import('./qemu-nbd/index.js')).main(argv);
    default: return (await import('./vdisk.js')).main(argv);
  }
}
