from visalign.cli import main

main()
