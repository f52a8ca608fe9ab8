/**
 * Option schemas and the one dictionary they all end in: `-o`, `--image-opts`, `json:{}`, blockdev-add, help and types.
 */
export type OptionValue = string | number | boolean | null | undefined | readonly OptionValue[] | { readonly [key: string]: OptionValue };

export interface OptionField {
  readonly type: 'string' | 'boolean' | 'size' | 'number' | 'enum' | 'object' | 'any';
  readonly values?: readonly string[];
  readonly required?: boolean;
  readonly default?: OptionValue;
  readonly help?: string;
  /** Changes what the guest sees, so it belongs in a json:{} filename (default true). */
  readonly strong?: boolean;
}
/** Fields by QAPI name ('lazy-refcounts'). Children are not fields: the driver declares them. */
export type OptionSchema<O extends object> = { readonly [K in keyof O]-?: OptionField };

export interface CreateField {
  readonly type: 'string' | 'boolean' | 'size' | 'number';
  /** Text as `-o help` shows it. */
  readonly help: string;
  /** Default as help shows it and create applies it. */
  readonly default?: string | number | boolean;
}
/** Create options by QEMU's `-o` names ('cluster_size'). */
export type CreateSchema = Readonly<Record<string, CreateField>>;
