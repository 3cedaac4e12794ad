# Installs sp-wrapper on minions:
#
#   salt '*' state.apply saltpeter.wrapper
#
# Copy this directory (saltpeter/) into a file root of the master (/srv/salt), and the wrapper to files/sp-wrapper in it, or
# to files/sp-wrapper-<cpuarch> for each architecture of the fleet (x86_64, aarch64, ...).
# Running wrappers are not affected: Salt replaces the file by renaming.
#
# Pillar, both optional:
#   saltpeter:
#     wrapper_path: /usr/bin/sp-wrapper          # set default_wrapper_path in saltpeter_config to the same path
#     wrapper_logdir: /var/log/sp_wrapper        # set default_wrapper_logdir to the same path

{%- set path = salt['pillar.get']('saltpeter:wrapper_path', '/usr/bin/sp-wrapper') %}
{%- set logdir = salt['pillar.get']('saltpeter:wrapper_logdir', '/var/log/sp_wrapper') %}

saltpeter-wrapper:
  file.managed:
    - name: {{ path }}
    - source:
      - salt://saltpeter/files/sp-wrapper-{{ grains['cpuarch'] }}
      - salt://saltpeter/files/sp-wrapper
    - user: root
    - group: root
    - mode: '0755'
    - makedirs: True

saltpeter-wrapper-logdir:
  file.directory:
    - name: {{ logdir }}
    - user: root
    - group: root
    - mode: '0750'
    - makedirs: True

# check that it runs here, so that a wrong architecture is noticed now and not with the first job; without settings the
# wrapper only prints which one is missing
saltpeter-wrapper-runs:
  cmd.run:
    - name: {{ path }} 2>&1 | grep SP_WEBSOCKET_URL
    - onchanges:
      - file: saltpeter-wrapper
