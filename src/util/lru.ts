/** A map that remembers, about, which entries were used last. */

interface Slot<V> {
  readonly value: V;
  used: boolean;
}

/**
 * Least-recently-used order by second chance: a hit sets a mark and costs nothing else; who looks for something to give up
 * passes marked entries by, once. Bounded by its owner, who asks {@link coldest}.
 */
export class Lru<K, V> {
  readonly #slots = new Map<K, Slot<V>>();

  get size(): number {
    return this.#slots.size;
  }

  /** The value, which counts as use. */
  get(key: K): V | undefined {
    const slot = this.#slots.get(key);
    if (slot === undefined) return undefined;
    slot.used = true;
    return slot.value;
  }

  /** The value, without counting as use. */
  peek(key: K): V | undefined {
    return this.#slots.get(key)?.value;
  }

  /** Adds or replaces. */
  set(key: K, value: V): void {
    this.#slots.delete(key);
    this.#slots.set(key, { value, used: false });
  }

  delete(key: K): boolean {
    return this.#slots.delete(key);
  }

  clear(): void {
    this.#slots.clear();
  }

  /** The entry to give up next among those `eligible`; undefined where there is none. */
  coldest(eligible: (value: V) => boolean = () => true): [K, V] | undefined {
    let passed: [K, V] | undefined;
    for (let turns = this.#slots.size; turns > 0; turns--) {
      const [key, slot] = this.#slots.entries().next().value!;
      if (!slot.used && eligible(slot.value)) return [key, slot.value];
      if (passed === undefined && eligible(slot.value)) passed = [key, slot.value];
      slot.used = false;
      this.#slots.delete(key);
      this.#slots.set(key, slot);
    }
    return passed;
  }

  /** Values not used since they were added or since the last call. */
  unused(): V[] {
    const found: V[] = [];
    for (const slot of this.#slots.values()) {
      if (!slot.used) found.push(slot.value);
      slot.used = false;
    }
    return found;
  }
}
