/** Commands about the program itself: pauses and ends. */
import { parseNumber } from '../../sizes.js';
import { flushOut } from '../../output.js';
import { describe, type Command } from '../command.js';
import { parseQuantity } from '../values.js';

export const sleep: Command = {
  name: 'sleep', minimum: 1, maximum: 1, anytime: true,
  summary: 'waits for the given value in milliseconds',
  async run([text], { io }) {
    const milliseconds = parseNumber(text!);
    if (milliseconds === undefined) {
      io.out(`${text} is not a valid number\n`);
      return false;
    }
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    return true;
  },
};

export const sigraise: Command = {
  name: 'sigraise', minimum: 1, maximum: 1, anytime: true,
  usage: 'signal',
  summary: 'raises a signal',
  details: describe('Sends the process itself the signal of that number.', ['sigraise 15', 'raises SIGTERM'], {}),
  run([text]) {
    const signal = parseQuantity(text!);
    flushOut();
    process.kill(process.pid, signal);
    return true;
  },
};

export const abort: Command = {
  name: 'abort', minimum: 0, maximum: 0, anytime: true,
  summary: 'simulate a program crash using abort(3)',
  run() {
    process.kill(process.pid, 'SIGABRT');
    return true;
  },
};
