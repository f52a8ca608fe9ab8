/** The multi-call program. Each tool, and each verb of a tool, is its own module: a call loads only what it runs. */
import { exit, reportFailure, setProgram } from './output.js';
import { tools } from './tools.js';

export { stopped } from './output.js';

/** Runs the tool named `program` ('vdisk', or one of `tools`) and ends the process with its exit code. */
export async function run(program: string, argv: string[]): Promise<void> {
  setProgram(program);
  try {
    exit(await dispatch(program, argv));
  } catch (error) {
    exit(reportFailure(error));
  }
}

async function dispatch(program: string, argv: string[]): Promise<number> {
  const { main } = Object.hasOwn(tools, program) ? await tools[program]!() : await import('./vdisk.js');
  return main(argv);
}
