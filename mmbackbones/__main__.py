"""``python -m mmbackbones train CONFIG``: the commands of ``tools/`` where there is no checkout."""

import sys

COMMANDS = ('train', 'test')


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        print(f'usage: python -m mmbackbones {{{",".join(COMMANDS)}}} …', file=sys.stderr)
        sys.exit(2)
    from mmbackbones.engine import cli

    cli.run_command(getattr(cli, argv[0]), argv[1:])


if __name__ == '__main__':
    main()
