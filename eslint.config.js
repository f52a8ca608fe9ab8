import { defineConfig } from 'eslint/config';
import tseslint from 'typescript-eslint';

const noDefaultExports = {
  'no-restricted-syntax': ['error', { selector: 'ExportDefaultDeclaration', message: 'No default exports: name it.' }],
};

export default defineConfig(
  { ignores: ['dist', 'docs', 'node_modules', 'coverage'] },
  {
    files: ['src/**/*.ts', 'test/**/*.ts', 'bench/**/*.ts', 'examples/**/*.ts'],
    languageOptions: { parser: tseslint.parser, parserOptions: { project: './tsconfig.check.json', tsconfigRootDir: import.meta.dirname } },
    plugins: { '@typescript-eslint': tseslint.plugin },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: { arguments: false, inheritedMethods: false } }],
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/no-unsafe-return': 'error',
      '@typescript-eslint/no-unnecessary-type-assertion': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrors: 'all', caughtErrorsIgnorePattern: '^_' }],
      '@typescript-eslint/consistent-type-imports': ['error', { disallowTypeAnnotations: false }],
      '@typescript-eslint/prefer-promise-reject-errors': ['error', { allowThrowingUnknown: true }],
      eqeqeq: 'error',
      'no-var': 'error',
      'prefer-const': 'error',
      'no-constant-binary-expression': 'error',
      'no-self-compare': 'error',
      ...noDefaultExports,
    },
  },
  {
    // The engine also runs in a browser: what only Node has lives in src/platform.
    files: ['src/**/*.ts'],
    ignores: ['src/platform/**', 'src/protocol/**', 'src/face/**', 'src/**/*.test.ts'],
    rules: {
      'no-restricted-globals': ['error', ...['Buffer', 'process', 'setImmediate', 'clearImmediate', 'require', '__dirname', '__filename']
        .map((name) => ({ name, message: 'Only src/platform, src/protocol and src/face know Node.' }))],
    },
  },
  { files: ['src/**/*.test.ts', 'src/testing/**', 'test/**/*.ts'], rules: { '@typescript-eslint/await-thenable': 'off' } },
);
