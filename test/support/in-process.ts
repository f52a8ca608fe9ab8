/** Our command line without a process of its own: for tests that run very many commands. */
import { closeGraph } from '../../src/face/cli/open.js';
import { captureOut, describeFailure, setProgram, setQuiet } from '../../src/face/cli/output.js';
import { main as qemuImg } from '../../src/face/cli/qemu-img/index.js';
import { main as qemuIo } from '../../src/face/cli/qemu-io/index.js';

const tools = { 'qemu-img': qemuImg, 'qemu-io': qemuIo };

/** Runs a command to its end. `message` is that of the error it ended with; warnings and findings go to the test's own standard error. */
export async function runHere(tool: keyof typeof tools, parameters: readonly string[]): Promise<{ status: number; stdout: string; message: string | undefined }> {
  setProgram(tool);
  setQuiet(false);
  const output = captureOut();
  try {
    return { status: await tools[tool]([...parameters]), stdout: output(), message: undefined };
  } catch (error) {
    const { exitCode, message } = describeFailure(error);
    return { status: exitCode, stdout: output(), message };
  } finally {
    await closeGraph();
  }
}
