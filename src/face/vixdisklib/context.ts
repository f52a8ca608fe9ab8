/** What the parts of one library share. */
import type { BlockGraph } from '../../block/graph.js';
import type { OpenGate } from '../../block/gate.js';
import type { Journal } from './journal.js';
import type { Logger } from './logging.js';
import type { ResolveParent } from './opening.js';

export interface LibraryContext {
  readonly graph: BlockGraph;
  readonly gate: OpenGate;
  readonly resolveParent: ResolveParent | undefined;
  readonly logger: Logger;
  readonly journal: Journal;
}
